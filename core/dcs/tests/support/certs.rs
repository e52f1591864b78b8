//! Certificates, made with the openssl command.

use super::TempDir;
use std::path::PathBuf;
use std::process::Command;

/// An authority, and certificates it signed.
pub struct Certs {
    dir: TempDir,
}

impl Certs {
    pub fn new() -> Self {
        let certs = Self { dir: TempDir::new() };
        certs.openssl(
            &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test-authority"],
            &[("-keyout", "ca.key"), ("-out", "ca.pem")],
        );
        certs
    }

    /// A certificate for 127.0.0.1, good for servers and clients.
    pub fn sign(&self, name: &str) {
        let (key, request, cert) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
        let subject = format!("/CN={name}");
        self.openssl(
            &["req", "-newkey", "rsa:2048", "-nodes", "-subj", &subject],
            &[("-keyout", &key), ("-out", &request)],
        );
        let extensions = "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n";
        std::fs::write(self.path("extensions"), extensions).expect("a file");
        self.openssl(
            &["x509", "-req", "-days", "2", "-CAcreateserial"],
            &[("-in", &request), ("-CA", "ca.pem"), ("-CAkey", "ca.key"), ("-out", &cert), ("-extfile", "extensions")],
        );
    }

    /// A key pair for signed tokens.
    pub fn token_keys(&self) {
        self.openssl(&["genrsa"], &[("-out", "jwt.key"), ("", "2048")]);
        self.openssl(&["rsa", "-pubout"], &[("-in", "jwt.key"), ("-out", "jwt.pub")]);
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub fn text(&self, file: &str) -> String {
        self.path(file).to_string_lossy().into_owned()
    }

    fn openssl(&self, arguments: &[&str], files: &[(&str, &str)]) {
        let mut command = Command::new("openssl");
        command.args(arguments).current_dir(self.dir.path());
        for (flag, file) in files {
            if !flag.is_empty() {
                command.arg(flag);
            }
            command.arg(file);
        }
        let output = command.output().expect("openssl is installed");
        assert!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    }
}

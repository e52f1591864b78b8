//! TLS, with and without client certificates.

use crate::conformance::{changed_to, kept, won};
use crate::support::backend::options;
use crate::support::certs::Certs;
use crate::support::etcd::{Etcd, Plan};
use crate::support::run;
use ha_core::dcs::{DcsCall, DcsReply};
use ha_dcs::Store;
use ha_dcs::etcd3::{Etcd3, Options, Protocol};

async fn secured(certs: &Certs) -> Etcd {
    let arguments = [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")];
    let mut arguments: Vec<String> =
        arguments.iter().flat_map(|(flag, file)| [(*flag).to_owned(), certs.text(file)]).collect();
    arguments.push("--client-cert-auth".to_owned());
    Etcd::start(Plan { scheme: "https", arguments, ..Plan::default() }).await
}

fn over_tls(etcd: &Etcd, certs: &Certs, client: &str) -> Options {
    Options {
        protocol: Protocol::Https,
        cacert: Some(certs.path("ca.pem")),
        cert: Some(certs.path(&format!("{client}.pem"))),
        key: Some(certs.path(&format!("{client}.key"))),
        ..options(etcd.hosts(), "a")
    }
}

#[test]
fn both_sides_show_certificates() {
    run(async {
        let certs = Certs::new();
        certs.sign("server");
        certs.sign("client");
        let etcd = secured(&certs).await;
        let mut store = Etcd3::connect(&over_tls(&etcd, &certs, "client"));
        let mut waited = 0;
        while !matches!(store.call(DcsCall::KeepSession).await, DcsReply::SessionKept { .. }) {
            waited += 1;
            assert!(waited < 5, "{}", etcd.logs());
        }
        let lease = won(&mut store).await;
        kept(&mut store, lease).await;
        changed_to(&mut store.watcher(), |raw| raw.keys.contains_key("leader")).await;

        // Key and certificate in one file.
        let both =
            [certs.path("client.pem"), certs.path("client.key")].map(|path| std::fs::read(path).expect("a file"));
        std::fs::write(certs.path("both.pem"), both.concat()).expect("a file");
        let one_file = Options { cert: Some(certs.path("both.pem")), key: None, ..over_tls(&etcd, &certs, "client") };
        kept(&mut Etcd3::connect(&one_file), lease).await;

        refused_without_proof(&etcd, &certs).await;
    });
}

async fn refused_without_proof(etcd: &Etcd, certs: &Certs) {
    let other = Certs::new();
    other.sign("client");
    let stranger = over_tls(etcd, &other, "client");
    let good = over_tls(etcd, certs, "client");
    let cases = [
        ("an authority we do not trust", Options { cacert: Some(other.path("ca.pem")), ..good.clone() }),
        ("a certificate they do not trust", Options { cacert: good.cacert.clone(), ..stranger }),
        ("no certificate", Options { cert: None, key: None, ..good.clone() }),
        ("no TLS", Options { protocol: Protocol::Http, cacert: None, cert: None, key: None, ..good.clone() }),
        ("a file that is not there", Options { cacert: Some(certs.path("nothing.pem")), ..good }),
    ];
    for (what, mut options) in cases {
        options.retry_timeout = ha_core::clock::Millis(800);
        let reply = Etcd3::connect(&options).call(DcsCall::KeepSession).await;
        assert!(matches!(reply, DcsReply::Unknown(_) | DcsReply::Denied(_)), "{what}: {reply:?}");
    }
}

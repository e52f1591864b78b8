//! Every setting of the server that belongs to us, in one table. What concerns the cluster is configured in the YAML file.

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use std::ffi::CString;

/// What a primary without a lease does with reads of user tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum FenceReads {
    /// They fail: a commit that will be lost may be visible here.
    #[name = c"refuse"]
    Refuse,
    /// They are answered.
    #[name = c"allow"]
    Allow,
}

static CONFIG_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static FENCE_READS: GucSetting<FenceReads> = GucSetting::<FenceReads>::new(FenceReads::Refuse);

/// Registers the settings. Called once, by the postmaster.
pub fn define() {
    GucRegistry::define_string_guc(
        c"ha_ext.config_file",
        c"Configuration file (or directory) of this node's high availability.",
        c"The same YAML that ha_bootstrap reads. Empty means that this server is not part of a cluster.",
        &CONFIG_FILE,
        GucContext::Postmaster,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_enum_guc(
        c"ha_ext.fence_reads",
        c"What a primary without the leader lease does with reads of user tables.",
        c"",
        &FENCE_READS,
        GucContext::Sighup,
        GucFlags::empty(),
    );
}

/// `ha_ext.config_file`; empty when unset.
pub fn config_file() -> String {
    CONFIG_FILE.get().and_then(|path| path.into_string().ok()).unwrap_or_default()
}

/// `ha_ext.fence_reads`.
pub fn fence_reads() -> FenceReads {
    FENCE_READS.get()
}

//! The invariants of architecture section 9, one file each: what it says, why it must hold, where it comes from.

pub(super) mod i01;
pub(super) mod i02;
pub(super) mod i03;
pub(super) mod i05;
pub(super) mod i06;
pub(super) mod i07;
pub(super) mod i08;
pub(super) mod i09;
pub(super) mod i11;
pub(super) mod i12;
pub(super) mod i13;
pub(super) mod i14;
pub(super) mod i16;
pub(super) mod i17;
pub(super) mod paused;

//! What only some seeds have, drawn apart from everything else: the seeds without it are what they would be if it did not exist.

use super::kinds::{self, Kind};
use super::params::{Params, Weather};
use super::rng::Rng;

/// Adds what `seed` has of it.
pub(super) fn among_them(params: &mut Params, weather: &mut Weather, seed: u64) {
    let mut rng = Rng::new(seed ^ 0xa9a7);
    if rng.chance(200) {
        params.virtual_machines = true;
        if rng.chance(400) {
            weather.weights = kinds::hypervisor();
        } else {
            weather.mix_in(&mut rng, &[Kind::PauseMachine, Kind::Suspend]);
        }
    }
}

impl Weather {
    /// Kinds that come about as often as each other kind of this seed does.
    fn mix_in(&mut self, rng: &mut Rng, kinds: &[Kind]) {
        let others: u64 = self.weights.iter().sum();
        for kind in kinds {
            self.weights[*kind as usize] = 1 + others * rng.between(1, 3) / 12;
        }
    }
}

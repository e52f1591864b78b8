//! A schedule: what a run is made from. A seed draws one; a file holds one that broke something, cut down to what that takes.

use super::kinds::Kind;
use super::params::{Params, Weather};
use super::rng::Rng;
use serde::{Deserialize, Serialize};

/// Everything that decides what happens in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// All that is not written here is drawn from it.
    pub seed: u64,
    /// Why it is kept.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    pub(super) params: Params,
    /// In order of time.
    pub(super) faults: Vec<Planned>,
}

/// A fault to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Planned {
    pub(super) at_ms: u64,
    pub(super) kind: Kind,
    /// If it lasts.
    pub(super) lasts_ms: u64,
    /// What else it chooses is drawn from this.
    pub(super) draw: u64,
}

/// Seeds from here on are small, short worlds: five times as many of them in the same time.
pub const SHORT_FROM: u64 = 1_000_000_000_000_000;

impl Schedule {
    /// The schedule of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (mut params, mut weather) = Params::draw(&mut rng);
        super::promises::among_them(&mut params, &mut weather, seed);
        super::restores::among_them(&mut weather, seed);
        super::apart::among_them(&mut params, &mut weather, seed);
        super::apart::late_joiners(&mut params, &mut weather, seed);
        super::apart::undone_promotions(&mut weather, seed);
        super::apart::unlisted_ones(&mut params, &mut weather, seed);
        super::apart::promoted_by_mistake(&mut params, &mut weather, seed);
        super::watchdog::among_them(&mut params, seed);
        super::leases::among_them(&mut params, &mut weather, seed);
        super::asynchronous::among_them(&mut params, seed);
        super::two_phase::among_them(&mut params, seed);
        super::peers::among_them(&mut params, seed);
        super::replay::among_them(&mut params, seed);
        super::owed::among_them(&mut params, &mut weather, seed);
        if seed >= SHORT_FROM {
            super::apart::shorten(&mut params, &mut weather);
        }
        let faults = plan(&mut rng, &params, &weather);
        Self { seed, about: String::new(), params, faults }
    }

    /// The schedule of a seed in which leaders are lost one after the other, and nothing else goes wrong: how fast the simulator is says this
    /// world more plainly than the usual mix.
    #[must_use]
    pub fn of_failovers(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let params = Params::calm(&mut rng);
        let weather = Weather { every_ms: 12_000, weights: super::kinds::failovers() };
        let faults = plan(&mut rng, &params, &weather);
        Self { seed, about: String::new(), params, faults }
    }

    /// Reads one from its file.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// As it stands in a file, a fault in a line.
    #[must_use]
    pub fn json(&self) -> String {
        let line = |value: &dyn Fn() -> serde_json::Result<String>| value().unwrap_or_default();
        let faults: Vec<String> = self.faults.iter().map(|fault| line(&|| serde_json::to_string(fault))).collect();
        let about = line(&|| serde_json::to_string(&self.about));
        let params = line(&|| serde_json::to_string(&self.params));
        let faults = faults.join(",\n    ");
        format!(
            "{{\n  \"seed\": {},\n  \"about\": {about},\n  \"params\": {params},\n  \"faults\": [\n    {faults}\n  ]\n}}\n",
            self.seed
        )
    }

    /// How much there is in it: faults, nodes, clients.
    #[must_use]
    pub fn size(&self) -> (usize, usize, usize) {
        (self.faults.len(), self.params.nodes, self.params.clients)
    }
}

fn plan(rng: &mut Rng, params: &Params, weather: &Weather) -> Vec<Planned> {
    let total: u64 = weather.weights.iter().sum();
    let longest_ms = params.settings.ttl_ms.0 * 4;
    let mut faults = Vec::new();
    let mut at_ms = params.quiet_ms + 1;
    while at_ms < params.quiet_ms + params.faults_ms && total > 0 {
        let mut at = rng.below(total);
        let kind = super::kinds::ALL.iter().zip(weather.weights).find_map(|(kind, weight)| {
            if at < weight {
                return Some(*kind);
            }
            at -= weight;
            None
        });
        if let Some(kind) = kind {
            faults.push(Planned { at_ms, kind, lasts_ms: rng.skewed(200, longest_ms), draw: rng.next() });
        }
        at_ms += rng.between(weather.every_ms / 4, weather.every_ms * 2);
    }
    faults
}

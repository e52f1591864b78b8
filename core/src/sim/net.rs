//! The network: one-way links between nodes and to the store, each of which can be cut, slow or lossy.

use super::rng::Rng;

/// The state of one direction of one link.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    cut: bool,
    extra_delay_ms: u64,
    loss_per_mille: u64,
}

#[derive(Debug)]
pub(super) struct Net {
    places: usize,
    links: Vec<Link>,
}

/// The store's place: after all nodes.
impl Net {
    pub(super) fn new(nodes: usize) -> Self {
        let places = nodes + 1;
        Self { places, links: vec![Link::default(); places * places] }
    }

    pub(super) fn store(&self) -> usize {
        self.places - 1
    }

    fn link(&self, from: usize, to: usize) -> &Link {
        &self.links[from * self.places + to]
    }

    pub(super) fn cut(&self, from: usize, to: usize) -> bool {
        self.link(from, to).cut
    }

    /// A conversation needs both directions.
    pub(super) fn reachable(&self, a: usize, b: usize) -> bool {
        !self.cut(a, b) && !self.cut(b, a)
    }

    /// Both directions work as they should.
    pub(super) fn healthy(&self, a: usize, b: usize) -> bool {
        let sound = |link: &Link| !link.cut && link.extra_delay_ms == 0 && link.loss_per_mille == 0;
        sound(self.link(a, b)) && sound(self.link(b, a))
    }

    pub(super) fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        self.links[from * self.places + to].cut = cut;
    }

    pub(super) fn set_quality(&mut self, from: usize, to: usize, extra_delay_ms: u64, loss_per_mille: u64) {
        let link = &mut self.links[from * self.places + to];
        link.extra_delay_ms = extra_delay_ms;
        link.loss_per_mille = loss_per_mille;
    }

    pub(super) fn heal(&mut self) {
        self.links.fill(Link::default());
    }

    /// Time one message takes. A lost packet is sent again by TCP: it costs time.
    pub(super) fn delay(&self, rng: &mut Rng, from: usize, to: usize) -> u64 {
        let link = self.link(from, to);
        let base = if rng.chance(20) { rng.between(5, 40) } else { rng.below(3) };
        let extra = rng.below(link.extra_delay_ms + 1);
        let resent = if rng.chance(link.loss_per_mille) { rng.between(200, 3000) } else { 0 };
        base + extra + resent
    }
}

//! Which packets a fault of the network loses.

use crate::faults::STORE_MEMBERS;
use crate::schedule::{Kind, draw};

/// From whom to whom, and how many of a hundred. The nodes are the first machines, the members of etcd follow.
pub fn lost(kind: Kind, node: usize, nodes: usize, dice: &mut u64) -> (Vec<(usize, usize)>, u32) {
    let store = nodes..nodes + STORE_MEMBERS;
    let peers = (0..nodes).filter(|peer| *peer != node);
    let mut some = |of: usize| usize::try_from(draw(dice, of as u64)).unwrap_or(0);
    match kind {
        Kind::CutFromStore => (both(node, store), 100),
        Kind::DeafStore => (store.map(|member| (node, member)).collect(), 100),
        Kind::LostOutcomes => (store.map(|member| (member, node)).collect(), 100),
        Kind::CutFromPeers => (both(node, peers.take(1 + some(nodes - 1))), 100),
        Kind::CutOneWay => (peers.map(|peer| (node, peer)).collect(), 100),
        Kind::BadLinks => (both(node, peers.chain(store)), 2 + u32::try_from(some(29)).unwrap_or(0)),
        Kind::SplitStore => {
            let lonely = nodes + some(STORE_MEMBERS);
            (both(lonely, store.filter(|member| *member != lonely)), 100)
        }
        _ => (both(node, peers.chain(store)), 100),
    }
}

fn both(one: usize, others: impl Iterator<Item = usize>) -> Vec<(usize, usize)> {
    others.flat_map(|other| [(one, other), (other, one)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_isolated_node_hears_nobody_and_is_not_heard() {
        let (pairs, percent) = lost(Kind::Isolate, 1, 3, &mut 1);
        assert_eq!((pairs.len(), percent), (10, 100));
        assert!(pairs.iter().all(|(from, to)| (*from == 1) != (*to == 1)));
        let (pairs, _) = lost(Kind::SplitStore, 1, 3, &mut 1);
        assert_eq!(pairs.len(), 4);
        assert!(pairs.iter().all(|(from, to)| *from >= 3 && *to >= 3));
        let (pairs, _) = lost(Kind::CutOneWay, 0, 3, &mut 1);
        assert_eq!(pairs, [(0, 1), (0, 2)]);
    }
}

//! Estimates the disk space of a set of builds that share blocks with the builds they were cloned from.
//!
//! Two numbers of each build are known: all its blocks (`bytes`), and those that it shared with no other
//! build when it ended (`own`). The sum of `bytes` counts shared blocks several times; the sum of `own`
//! misses blocks that only one build still holds. So the builds form a forest in which the parent of a
//! build is the one that it was cloned from, and blocks that several builds of a tree need count once.
//!
//! The estimate is careful: the total never grows when a build is removed, removing a build whose clones
//! remain frees little, and no build counts for more than its blocks. Blocks that clones share because of
//! a build that is not known any more count for each of them.

/// The space of a build.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// All its blocks.
    pub(super) bytes: u64,
    /// Those that it shared with no other; at most `bytes`.
    pub(super) own: u64,
    /// The build it was cloned from, as [`Base`] of the same list.
    pub(super) base: Base,
}

/// The origin of a build's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// Empty: it has no parent to share blocks with.
    None,
    /// A clone of the build at this place of the list.
    At(usize),
    /// A clone of a build that is gone. Equal numbers mean the same build.
    Gone(usize),
}

/// Builds below the builds that they were cloned from; builds can be removed.
#[derive(Debug)]
pub(super) struct CloneForest {
    /// The builds, then one entry for each base that is gone.
    trees: Vec<Tree>,
    total: u64,
}

#[derive(Debug)]
struct Tree {
    bytes: u64,
    own: u64,
    parent: Option<usize>,
    is_there: bool,
    /// Sum of the children's [`Tree::with_parent`].
    with_parent: u64,
    /// Sum of the children's [`Tree::standalone`].
    standalone: u64,
}

impl Tree {
    /// Bytes that this build and its descendants take beyond the blocks of its parent.
    fn with_parent(&self) -> u64 {
        let with = self.own.saturating_add(self.with_parent);
        match self.is_there {
            true => with,
            // Either the children share its blocks, or they share nothing with it.
            false => with.min(self.standalone),
        }
    }

    /// The same without a parent to share blocks with.
    fn standalone(&self) -> u64 {
        let with = self.bytes.saturating_add(self.with_parent);
        match self.is_there {
            true => with,
            false => with.min(self.standalone),
        }
    }
}

impl CloneForest {
    /// A forest without removals. A base that is its own ancestor is ignored.
    pub(super) fn new(nodes: &[Node]) -> CloneForest {
        let gone = nodes.iter().filter_map(|node| match node.base {
            Base::Gone(name) => Some(name + 1),
            _ => None,
        });
        let gone = gone.max().unwrap_or(0);
        let mut trees: Vec<Tree> = nodes
            .iter()
            .map(|node| Tree {
                bytes: node.bytes,
                own: node.own.min(node.bytes),
                parent: match node.base {
                    Base::None => None,
                    Base::At(at) => Some(at).filter(|at| *at < nodes.len()),
                    Base::Gone(name) => Some(nodes.len() + name),
                },
                is_there: true,
                with_parent: 0,
                standalone: 0,
            })
            .collect();
        trees.extend((0..gone).map(|_| Tree {
            bytes: 0,
            own: 0,
            parent: None,
            is_there: false,
            with_parent: 0,
            standalone: 0,
        }));
        for node in nodes {
            if let Base::Gone(name) = node.base {
                // At least that much of the base still exists.
                let shared = node.bytes.saturating_sub(node.own);
                let base = &mut trees[nodes.len() + name];
                base.bytes = base.bytes.max(shared);
                base.own = base.bytes;
            }
        }
        let order = parents_first(&mut trees);
        let mut forest = CloneForest { trees, total: 0 };
        for at in order.into_iter().rev() {
            let (with_parent, standalone) = (
                forest.trees[at].with_parent(),
                forest.trees[at].standalone(),
            );
            match forest.trees[at].parent {
                Some(parent) => {
                    let parent = &mut forest.trees[parent];
                    parent.with_parent = parent.with_parent.saturating_add(with_parent);
                    parent.standalone = parent.standalone.saturating_add(standalone);
                }
                None => forest.total = forest.total.saturating_add(standalone),
            }
        }
        forest
    }

    /// Bytes that the remaining builds take.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Removes a build; returns the bytes that this frees.
    pub(super) fn remove(&mut self, at: usize) -> u64 {
        let before = self.total;
        let mut at = at;
        let mut was = (self.trees[at].with_parent(), self.trees[at].standalone());
        self.trees[at].is_there = false;
        loop {
            let is = (self.trees[at].with_parent(), self.trees[at].standalone());
            if is == was {
                break;
            }
            let Some(parent) = self.trees[at].parent else {
                self.total = self.total.saturating_sub(was.1 - is.1);
                break;
            };
            let tree = &mut self.trees[parent];
            let its = (tree.with_parent(), tree.standalone());
            tree.with_parent = tree.with_parent.saturating_sub(was.0 - is.0);
            tree.standalone = tree.standalone.saturating_sub(was.1 - is.1);
            (at, was) = (parent, its);
        }
        before - self.total
    }
}

/// An order in which each tree comes after its parent; cycles are broken.
fn parents_first(trees: &mut [Tree]) -> Vec<usize> {
    let mut children: Vec<Vec<usize>> = trees.iter().map(|_| Vec::new()).collect();
    for (at, tree) in trees.iter().enumerate() {
        if let Some(parent) = tree.parent {
            children[parent].push(at);
        }
    }
    let mut order: Vec<usize> = Vec::with_capacity(trees.len());
    let mut is_placed = vec![false; trees.len()];
    let place = |from: usize, order: &mut Vec<usize>, is_placed: &mut Vec<bool>| {
        let mut next = order.len();
        is_placed[from] = true;
        order.push(from);
        while let Some(at) = order.get(next).copied() {
            for &child in &children[at] {
                if !is_placed[child] {
                    is_placed[child] = true;
                    order.push(child);
                }
            }
            next += 1;
        }
    };
    for (at, tree) in trees.iter().enumerate() {
        if tree.parent.is_none() {
            place(at, &mut order, &mut is_placed);
        }
    }
    for (at, tree) in trees.iter_mut().enumerate() {
        if !is_placed[at] {
            tree.parent = None;
            place(at, &mut order, &mut is_placed);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(bytes: u64, own: u64, base: Base) -> Node {
        Node { bytes, own, base }
    }

    fn freed(nodes: &[Node], order: &[usize]) -> (u64, Vec<u64>) {
        let mut forest = CloneForest::new(nodes);
        let total = forest.total();
        let freed = order.iter().map(|at| forest.remove(*at)).collect();
        (total, freed)
    }

    #[test]
    fn the_size_of_builds_without_shared_blocks_is_the_sum() {
        let nodes = [node(10, 10, Base::None), node(5, 5, Base::None)];
        assert_eq!(freed(&nodes, &[1, 0]), (15, vec![5, 10]));
    }

    #[test]
    fn removing_a_base_frees_only_blocks_that_its_clone_does_not_share() {
        // A build of 10, and a clone of it that has 1 more.
        let nodes = [node(10, 10, Base::None), node(11, 1, Base::At(0))];
        assert_eq!(freed(&nodes, &[0, 1]), (11, vec![0, 11]));
        assert_eq!(freed(&nodes, &[1, 0]), (11, vec![1, 10]));
        // A build that was rewritten completely shares nothing.
        let nodes = [node(10, 10, Base::None), node(10, 10, Base::At(0))];
        assert_eq!(freed(&nodes, &[0, 1]), (20, vec![10, 10]));
        // And one that has dropped most of its data takes only its own blocks.
        let nodes = [node(10, 10, Base::None), node(3, 1, Base::At(0))];
        assert_eq!(freed(&nodes, &[0, 1]), (11, vec![8, 3]));
    }

    #[test]
    fn clones_of_a_removed_base_count_its_blocks_once() {
        let nodes = [
            node(11, 1, Base::Gone(0)),
            node(12, 2, Base::Gone(0)),
            node(7, 7, Base::Gone(1)),
        ];
        assert_eq!(freed(&nodes, &[0, 1, 2]), (13 + 7, vec![1, 12, 7]));
        assert_eq!(freed(&nodes, &[1, 0, 2]), (13 + 7, vec![2, 11, 7]));
    }

    #[test]
    fn a_missing_build_in_a_chain_does_not_increase_its_size() {
        // Each a clone of the one before, with 1 more.
        let nodes = [
            node(10, 10, Base::None),
            node(11, 1, Base::At(0)),
            node(12, 1, Base::At(1)),
        ];
        assert_eq!(freed(&nodes, &[1, 0, 2]), (12, vec![0, 0, 12]));
        assert_eq!(freed(&nodes, &[2, 1, 0]), (12, vec![1, 1, 10]));
        // Long chains need little stack and time.
        let mut chain = vec![node(10, 10, Base::None)];
        chain.extend((0..5_000).map(|at| node(10, 1, Base::At(at))));
        let mut forest = CloneForest::new(&chain);
        assert_eq!(forest.total(), 5_010);
        for at in 0..5_000 {
            forest.remove(at);
        }
        assert_eq!(forest.total(), 10);
    }

    #[test]
    fn a_circle_of_bases_does_not_loop() {
        let nodes = [
            node(3, 1, Base::At(1)),
            node(4, 1, Base::At(0)),
            node(5, 1, Base::At(2)),
        ];
        let (total, freed) = freed(&nodes, &[0, 1, 2]);
        assert_eq!(total, freed.iter().sum::<u64>());
    }

    fn forests() -> impl Strategy<Value = (Vec<Node>, Vec<usize>)> {
        let base = prop_oneof![
            Just(Base::None),
            (0_usize..24).prop_map(Base::At),
            (0_usize..3).prop_map(Base::Gone),
        ];
        let node = (0_u64..100, 0_u64..120, base);
        proptest::collection::vec(node, 1..24).prop_flat_map(|parts| {
            let count = parts.len();
            let nodes = parts.into_iter().map(|(bytes, own, base)| {
                let base = match base {
                    Base::At(at) => Base::At(at % count),
                    base => base,
                };
                Node { bytes, own, base }
            });
            let nodes: Vec<Node> = nodes.collect();
            let order: Vec<usize> = (0..count).collect();
            (Just(nodes), Just(order).prop_shuffle())
        })
    }

    proptest! {
        #[test]
        fn a_removal_never_increases_the_size_of_the_others((nodes, order) in forests()) {
            let mut forest = CloneForest::new(&nodes);
            let all: u64 = nodes.iter().map(|node| node.bytes).sum();
            prop_assert!(forest.total() <= all);
            for at in order {
                let before = forest.total();
                let freed = forest.remove(at);
                prop_assert_eq!(before, forest.total() + freed);
                prop_assert!(freed <= before);
            }
            prop_assert_eq!(forest.total(), 0);
        }

        #[test]
        fn removing_one_by_one_frees_as_much_as_removing_at_once((nodes, order) in forests(), left in 0_usize..24) {
            // What remains counts as if the removed builds had never had blocks of their own.
            let mut forest = CloneForest::new(&nodes);
            let (gone, kept) = order.split_at(order.len().saturating_sub(left));
            for at in gone {
                forest.remove(*at);
            }
            let most: u64 = kept.iter().map(|at| nodes[*at].bytes).sum();
            let least = kept.iter().map(|at| nodes[*at].own.min(nodes[*at].bytes)).max();
            prop_assert!(forest.total() <= most);
            prop_assert!(forest.total() >= least.unwrap_or(0));
            let again = {
                let mut forest = CloneForest::new(&nodes);
                for at in gone.iter().rev() {
                    forest.remove(*at);
                }
                forest.total()
            };
            prop_assert_eq!(again, forest.total());
        }
    }
}

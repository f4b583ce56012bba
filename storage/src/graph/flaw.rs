//! Whether a graph is one: what the consistency check asks of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Graph, User};
use crate::id::LayerId;

impl Graph {
    /// What does not fit in it, if anything: who stands on a layer must be just those whose base or
    /// top it is, and nothing lies on itself.
    pub(crate) fn flaw(&self) -> Option<String> {
        let mut users: BTreeMap<LayerId, BTreeSet<User>> = BTreeMap::new();
        for (layer, node) in &self.layers {
            if let Some(base) = node.base {
                if !self.layers.contains_key(&base) {
                    return Some(format!("layer {layer} lies on layer {base}, which is not known"));
                }
                users.entry(base).or_default().insert(User::Layer(*layer));
            }
        }
        for (branch, node) in &self.branches {
            users.entry(node.top).or_default().insert(User::Branch(*branch));
        }
        let mut wrong =
            self.layers.iter().filter(|(layer, node)| users.get(layer) != Some(&node.users));
        if let Some((layer, _)) = wrong.next() {
            return Some(format!("layer {layer} does not know what stands on it"));
        }
        let stray = self.layers.len().checked_sub(self.layers_upwards().count())?;
        (stray > 0).then(|| format!("{stray} layers lie on each other in a circle"))
    }
}

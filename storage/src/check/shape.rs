//! The branch tree against its journal, the ledger against a walk, directories against layers.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use crate::disk::{Open, read_all};
use crate::graph::Graph;
use crate::holdings::Holdings;
use crate::id::LayerId;
use crate::import::INCOMING;
use crate::journal::{BranchEdit, Log, LogKind};
use crate::ledger::Ledger;
use crate::locks;
use crate::wire::Finding;

const JOURNAL: &str = "branches.journal";
/// What else the store directory holds.
const KNOWN: [&str; 7] =
    ["format", "lock", "layers", INCOMING, JOURNAL, "branches.journal.tmp", "probe"];

/// The shape of the store. To be called in a pause of the keeper.
pub(crate) fn check_shape(holdings: &Holdings) -> Vec<Finding> {
    // Before the graph is looked at: what is made later is not in the list.
    let listed = list(holdings);
    let Ok(shape) = locks::lock(&holdings.shape) else {
        return vec![Finding::confused(JOURNAL, "a request panicked while it changed the tree")];
    };
    let graph = shape.graph.clone();
    let records = holdings.media.branches.appended();
    let pending = shape.pending.clone();
    let figures = |ledger: &Ledger, branch| {
        let account = ledger.account(branch);
        (account.unique(), account.shared())
    };
    let kept: Vec<_> =
        graph.branches().map(|(branch, _)| (branch, figures(&shape.ledger, branch))).collect();
    let layers = shape.layers.clone();
    drop(shape);
    let mut findings = Vec::new();
    match replay(holdings, records) {
        Ok(replayed) if replayed == graph => {}
        Ok(_) => findings.push(Finding::confused(JOURNAL, "it tells of another tree of branches")),
        Err(error) => findings.push(unreadable(JOURNAL, &error)),
    }
    if let Some(problem) = graph.flaw() {
        findings.push(Finding::confused(JOURNAL, problem));
    }
    let bytes = |layer: LayerId| layers.get(&layer).map_or(0, |layer| layer.bytes());
    let counted = Ledger::count(&graph, bytes);
    for (branch, kept) in kept {
        let counted = figures(&counted, branch);
        if kept != counted {
            let problem = format!(
                "its frozen layers count as {} bytes of its own and {} shared, and are {} and {}",
                kept.0, kept.1, counted.0, counted.1
            );
            findings.push(Finding::confused(format!("branch {branch}"), problem));
        }
    }
    match listed {
        Ok((layers, files)) => {
            let known: BTreeSet<_> = graph.layers().map(|(layer, _)| layer).collect();
            let is_known = |name: &&String| {
                let layer = name.parse().ok().and_then(LayerId::new);
                layer.is_some_and(|layer| known.contains(&layer) || pending.contains(&layer))
            };
            let stray = layers.iter().filter(|name| !is_known(name));
            findings.extend(stray.map(|name| Finding::stray(format!("layers/{name}"))));
            let stray = files.iter().filter(|name| !KNOWN.contains(&name.as_str()));
            findings.extend(stray.map(Finding::stray));
        }
        Err(error) => findings.push(unreadable("layers", &error)),
    }
    findings
}

fn list(holdings: &Holdings) -> io::Result<(Vec<String>, Vec<String>)> {
    let disk = &holdings.media.disk;
    Ok((disk.list(Path::new("layers"))?, disk.list(Path::new("."))?))
}

/// The tree that the first `records` of the journal tell of.
fn replay(holdings: &Holdings, records: u64) -> io::Result<Graph> {
    let bytes = read_all(&*holdings.media.disk.open(Path::new(JOURNAL), Open::Reading)?)?;
    let mut graph = Graph::new();
    Log::scan(&bytes, LogKind::Branches, |entry| {
        let edit = BranchEdit::decode(&entry).ok();
        entry.sequence <= records && edit.is_some_and(|edit| graph.apply(&edit).is_ok())
    });
    Ok(graph)
}

fn unreadable(place: &str, error: &io::Error) -> Finding {
    Finding::confused(place, format!("it cannot be read: {error}"))
}

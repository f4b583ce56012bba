//! The names, links, sizes and page maps of one branch.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crate::branch::{Branch, Tally};
use crate::holdings::Holdings;
use crate::id::{BranchId, DataName, FileId, LayerId};
use crate::inode::{Body, Inode};
use crate::locks;
use crate::manifest::Manifest;
use crate::pages::pages_in;
use crate::ranges::outside;
use crate::tree::Tree;
use crate::wire::Finding;

/// What a branch shows. To be called in a pause of the keeper.
pub(crate) fn check_branch(holdings: &Holdings, id: BranchId) -> Vec<Finding> {
    let branches = locks::read(&holdings.branches);
    let Some(branch) = branches.ok().and_then(|branches| branches.get(&id).cloned()) else {
        return Vec::new();
    };
    let place = format!("branch {id}");
    if let Some(reason) = branch.failure() {
        let problem = format!("it accepts no more changes: {reason}");
        return vec![Finding::lost(place, problem, &[id])];
    }
    let mut problems = Vec::new();
    if !branch.with_names(|tree| Links::count(tree).check(tree, &mut problems)) {
        problems.push("a request panicked while it changed the names".to_owned());
    }
    problems.extend(branch.tally().and_then(|tally| miscount(&tally)));
    let mut findings: Vec<_> =
        problems.into_iter().map(|problem| Finding::confused(place.clone(), problem)).collect();
    findings.extend(check_pages(holdings, &branch));
    findings
}

fn miscount(tally: &Tally) -> Option<String> {
    let Tally { sizes, pages } = tally;
    if sizes.0 != sizes.1 {
        return Some(format!("its files count as {} bytes and have {}", sizes.0, sizes.1));
    }
    (pages.0 != pages.1)
        .then(|| format!("its top layer counts {} pages and its files show {}", pages.0, pages.1))
}

/// What the directories say of every inode.
struct Links {
    names: HashMap<FileId, u32>,
    directories: HashMap<FileId, u32>,
}

impl Links {
    fn count(tree: &Tree) -> Self {
        let mut links =
            Self { names: HashMap::from([(FileId::ROOT, 1)]), directories: HashMap::new() };
        for (file, cell) in tree.cells() {
            let Ok(inode) = locks::read(&cell.inode) else { continue };
            let Some(directory) = inode.directory() else { continue };
            if *file != FileId::ROOT {
                *links.directories.entry(directory.parent).or_default() += 1;
            }
            for name in directory.names() {
                if let Some(inode) = directory.entry(&name) {
                    *links.names.entry(inode).or_default() += 1;
                }
            }
        }
        links
    }

    fn check(&self, tree: &Tree, problems: &mut Vec<String>) {
        for named in self.names.keys().filter(|named| tree.cell(**named).is_none()) {
            problems.push(format!("a name stands for inode {named}, which is not there"));
        }
        for (file, cell) in tree.cells() {
            let Ok(inode) = locks::read(&cell.inode) else {
                problems.push(format!("a request panicked while it changed inode {file}"));
                continue;
            };
            let expected = match inode.body {
                Body::Directory(_) => 2 + self.directories.get(file).copied().unwrap_or(0),
                _ => self.names.get(file).copied().unwrap_or(0),
            };
            if inode.links != expected || !self.names.contains_key(file) {
                problems
                    .push(format!("inode {file} counts {} links and has {expected}", inode.links));
            }
        }
    }
}

/// Every page that a sealed layer below must hold, it holds.
fn check_pages(holdings: &Holdings, branch: &Arc<Branch>) -> Vec<Finding> {
    let Some(tree) = branch.snapshot() else { return Vec::new() };
    let Ok(shape) = locks::lock(&holdings.shape) else { return Vec::new() };
    let chain: HashSet<_> = shape.graph.chain(branch.id).map(|(layer, _)| layer).collect();
    let sealed = |layer: &LayerId| shape.layers.get(layer).is_some_and(|layer| layer.is_sealed());
    let faces: HashMap<LayerId, LayerId> = chain
        .iter()
        .filter(|layer| sealed(layer))
        .filter_map(|layer| Some((*layer, shape.graph.face(*layer)?)))
        .collect();
    drop(shape);
    let disk = &*holdings.media.disk;
    let manifests: HashMap<LayerId, Manifest> = faces
        .into_iter()
        .filter_map(|(layer, face)| Some((layer, Manifest::read(disk, layer, face).ok()??)))
        .collect();
    let mut findings = Vec::new();
    for (file, cell) in tree.cells() {
        let Ok(inode) = locks::read(&cell.inode) else { continue };
        for (holder, run) in holders(holdings, &inode) {
            let problem = match manifests.get(&holder) {
                None if chain.contains(&holder) => continue,
                None => format!("inode {file} has pages in layer {holder}, which is not below it"),
                Some(manifest) if shows(manifest, *file, &inode, run.clone()) => continue,
                Some(_) => format!("inode {file} has pages in layer {holder}, which has none"),
            };
            findings.push(Finding::confused(format!("branch {}", branch.id), problem));
        }
    }
    findings
}

fn holders(holdings: &Holdings, inode: &Inode) -> Vec<(LayerId, Range<u64>)> {
    let Some(body) = inode.file() else { return Vec::new() };
    let runs = body.pages.runs(0..pages_in(body.size));
    runs.filter_map(|run| Some((holdings.media.files.resolve(run.layer?), run.pages))).collect()
}

fn shows(manifest: &Manifest, file: FileId, inode: &Inode, run: Range<u64>) -> bool {
    let Some(body) = inode.file() else { return false };
    let name = DataName { inode: file, contents: body.contents };
    manifest.file(name).is_some_and(|pages| outside(&[run], &pages.runs).is_empty())
}

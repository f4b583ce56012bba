//! One layer against its files.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::branch::Branch;
use crate::disk::{Open, read_all};
use crate::files::layer_dir;
use crate::holdings::Holdings;
use crate::id::{BranchId, DataName, LayerId};
use crate::inode::FileBody;
use crate::journal::{Log, LogKind};
use crate::layer::Layer;
use crate::load::written_pages;
use crate::locks;
use crate::manifest::{JOURNAL, MANIFEST, Manifest, face_name};
use crate::pages::{PAGE, pages_in};
use crate::ranges::{count, outside, within};
use crate::tree::Tree;
use crate::wire::Finding;

struct Subject<'a> {
    holdings: &'a Holdings,
    layer: Arc<Layer>,
    face: LayerId,
    /// The sealed layer that may be merged into this one, and what it shows: a merge that a crash
    /// or an error ended may have copied pages of it, and cut or overwritten what it hides.
    upper: Option<(LayerId, Tree)>,
    /// The branch whose top it is.
    branch: Option<Arc<Branch>>,
    readers: Vec<BranchId>,
    names: Vec<String>,
}

/// Layer `id`, if it is still there. To be called in a pause of the keeper.
pub(crate) fn check_layer(holdings: &Holdings, id: LayerId) -> Vec<Finding> {
    let names = holdings.media.disk.list(&layer_dir(id));
    let Ok(shape) = locks::lock(&holdings.shape) else { return Vec::new() };
    let Some(face) = shape.graph.face(id) else { return Vec::new() };
    let readers = shape.graph.branches_above(id);
    if let Some(reason) = holdings.lost.get(&id) {
        let place = layer_dir(id).display().to_string();
        return vec![Finding::lost(place, format!("it cannot be loaded: {reason}"), &readers)];
    }
    let Some(layer) = shape.layers.get(&id).cloned() else { return Vec::new() };
    let upper = shape.graph.sole_layer(id).filter(|upper| shape.graph.may_merge(id, *upper));
    let upper = upper.and_then(|upper| shape.layers.get(&upper)).filter(|upper| upper.is_sealed());
    let upper = upper.and_then(|upper| Some((upper.id, upper.frozen()?)));
    let branch = readers
        .first()
        .filter(|branch| shape.graph.branch(**branch).is_some_and(|node| node.top == id));
    let branches = locks::read(&holdings.branches).ok();
    let branch = branch.and_then(|branch| branches.as_ref()?.get(branch).cloned());
    drop((shape, branches));
    let names = match names {
        Ok(names) => names,
        Err(error) => {
            let place = layer_dir(id).display().to_string();
            return vec![Finding::lost(place, format!("it cannot be listed: {error}"), &readers)];
        }
    };
    let subject = Subject { holdings, layer, face, upper, branch, readers, names };
    if subject.layer.is_sealed() { subject.sealed() } else { subject.unsealed() }
}

impl Subject<'_> {
    fn place(&self, name: &str) -> String {
        layer_dir(self.layer.id).join(name).display().to_string()
    }

    fn lost(&self, name: &str, problem: impl Into<String>) -> Finding {
        Finding::lost(self.place(name), problem, &self.readers)
    }

    fn sealed(&self) -> Vec<Finding> {
        let disk = &*self.holdings.media.disk;
        let name = face_name(self.layer.id, self.face, MANIFEST);
        let manifest = match Manifest::read(disk, self.layer.id, self.face) {
            Ok(Some(manifest)) => manifest,
            Ok(None) => return vec![self.lost(&name, "it is missing")],
            Err(error) => return vec![self.lost(&name, format!("it cannot be read: {error}"))],
        };
        let mut findings: Vec<_> = self.journal(Some(manifest.last_record)).into_iter().collect();
        let (mut pages, mut unfinished) = (0, false);
        for file in &manifest.files {
            let Some(found) = self.written(file.name, &mut findings) else { continue };
            pages += count(&found);
            let (missing, surplus) = (outside(&file.runs, &found), outside(&found, &file.runs));
            unfinished |= !(missing.is_empty() && surplus.is_empty());
            self.compare(file.name, &self.shown(file.name, missing), &mut findings);
            self.report_surplus(file.name, &self.unexplained(file.name, surplus), &mut findings);
        }
        let kept = [JOURNAL, MANIFEST].map(|name| face_name(self.layer.id, self.face, name));
        for name in self.names.iter().filter(|name| !kept.contains(name)) {
            match DataName::parse(name).filter(|name| !manifest.names(*name)) {
                Some(data) if self.holdings.any_orphan(&[data.inode]) => {
                    pages += self.written(data, &mut findings).map_or(0, |found| count(&found));
                }
                Some(data) if self.is_in_upper(data) => unfinished = true,
                Some(_) => findings.push(Finding::stray(self.place(name))),
                None if DataName::parse(name).is_some() || self.is_unfinished(name) => {}
                None => findings.push(Finding::stray(self.place(name))),
            }
        }
        let held = pages * PAGE + self.layer.metadata_bytes();
        if !unfinished && held != self.layer.bytes() {
            let problem = format!("it counts as {} bytes and has {held}", self.layer.bytes());
            findings.push(Finding::confused(self.place(""), problem));
        }
        findings
    }

    /// The journal must hold as many good records as were written.
    fn journal(&self, sealed_at: Option<u64>) -> Option<Finding> {
        let name = face_name(self.layer.id, self.face, JOURNAL);
        let (written, _) = self.layer.journal.extent();
        let path = layer_dir(self.layer.id).join(&name);
        let read = |path: &Path| read_all(&*self.holdings.media.disk.open(path, Open::Reading)?);
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) => return Some(self.lost(&name, format!("it cannot be read: {error}"))),
        };
        let good = Log::scan(&bytes, LogKind::Layer(self.layer.id.get()), |_| true);
        let fits = sealed_at.map_or(good >= written, |last| good == last && good == written);
        (!fits).then(|| {
            let expected = sealed_at.unwrap_or(written);
            self.lost(&name, format!("record {} of {expected} does not read well", good + 1))
        })
    }

    /// The pages of a data file that are on disk.
    fn written(&self, name: DataName, findings: &mut Vec<Finding>) -> Option<Vec<Range<u64>>> {
        let path = layer_dir(self.layer.id).join(name.to_string());
        let disk = &self.holdings.media.disk;
        match disk.open(&path, Open::Reading).and_then(|medium| written_pages(&*medium)) {
            Ok(found) => Some(found),
            Err(error) => {
                findings.push(self.lost(&name.to_string(), format!("it cannot be read: {error}")));
                None
            }
        }
    }

    fn compare(&self, name: DataName, missing: &[Range<u64>], findings: &mut Vec<Finding>) {
        if let Some(first) = missing.first() {
            let problem = format!(
                "{} pages from page {} on are gone and read as zeros",
                count(missing),
                first.start
            );
            findings.push(self.lost(&name.to_string(), problem));
        }
    }

    fn report_surplus(&self, name: DataName, surplus: &[Range<u64>], findings: &mut Vec<Finding>) {
        if let Some(first) = surplus.first() {
            let (pages, place) = (count(surplus), self.place(&name.to_string()));
            let problem =
                format!("{pages} pages from page {} on belong to no page map", first.start);
            findings.push(Finding::confused(place, problem));
        }
    }

    /// Pages of the file that the upper layer's namespace shows from `holder`.
    fn seen_in(&self, name: DataName, holder: LayerId) -> Vec<Range<u64>> {
        let tree = self.upper.as_ref().map(|(_, tree)| tree);
        let Some(cell) = tree.and_then(|tree| tree.cell(name.inode)) else { return Vec::new() };
        let Ok(inode) = locks::read(&cell.inode) else { return Vec::new() };
        let body = inode.file().filter(|body| body.contents == name.contents);
        body.map_or_else(Vec::new, |body| held_by(body, holder, self.holdings))
    }

    fn shown(&self, name: DataName, missing: Vec<Range<u64>>) -> Vec<Range<u64>> {
        if self.upper.is_none() || missing.is_empty() {
            return missing;
        }
        within(&missing, &self.seen_in(name, self.layer.id))
    }

    fn unexplained(&self, name: DataName, surplus: Vec<Range<u64>>) -> Vec<Range<u64>> {
        match &self.upper {
            Some((upper, _)) => outside(&surplus, &self.seen_in(name, *upper)),
            None => surplus,
        }
    }

    fn is_in_upper(&self, name: DataName) -> bool {
        let cell = self.upper.as_ref().and_then(|(_, tree)| tree.cell(name.inode));
        let inode = cell.and_then(|cell| locks::read(&cell.inode).ok());
        inode.is_some_and(|inode| inode.file().is_some_and(|body| body.contents == name.contents))
    }

    /// Whether `name` is of a seal, a merge or a compaction that did not get to its end.
    fn is_unfinished(&self, name: &str) -> bool {
        let merging = self.upper.as_ref().is_some_and(|(upper, _)| {
            [JOURNAL, MANIFEST].iter().any(|file| face_name(self.layer.id, *upper, file) == name)
        });
        merging || name == "manifest.tmp" || name == "journal.tmp"
    }

    fn unsealed(&self) -> Vec<Finding> {
        let mut findings: Vec<_> = self.journal(None).into_iter().collect();
        let tree = match &self.branch {
            Some(branch) => branch.snapshot(),
            None => self.layer.frozen(),
        };
        let Some(tree) = tree else { return findings };
        let broken = self.branch.as_ref().is_some_and(|branch| branch.failure().is_some());
        for (file, cell) in tree.cells().filter(|(_, cell)| cell.layer == self.layer.id) {
            if broken {
                break;
            }
            let Ok(_io) = locks::lock(&cell.io) else { continue };
            let Ok(inode) = locks::read(&cell.inode) else { continue };
            let Some(body) = inode.file().filter(|body| body.data.is_some()) else { continue };
            let name = body.data_name(*file);
            let held = held_by(body, self.layer.id, self.holdings);
            drop(inode);
            if let Some(found) = self.written(name, &mut findings) {
                self.compare(name, &outside(&held, &found), &mut findings);
                self.report_surplus(name, &outside(&found, &held), &mut findings);
            }
        }
        for name in self.names.iter().filter(|name| !self.may_hold(name)) {
            findings.push(Finding::stray(self.place(name)));
        }
        findings
    }

    /// Whether a layer that is not sealed may hold a file of that name.
    fn may_hold(&self, name: &str) -> bool {
        let Some(data) = DataName::parse(name) else {
            return name == JOURNAL || self.is_unfinished(name);
        };
        // What a frozen layer does not need goes when it is sealed.
        let Some(branch) = &self.branch else { return true };
        let is_known = || {
            self.layer.is_retired(data)
                || branch.holds(data)
                || self.holdings.any_orphan(&[data.inode])
        };
        if is_known() {
            return true;
        }
        // It may just be on the way from one to the other, which takes place under this lock.
        let cell = branch.snapshot().and_then(|tree| tree.cell(data.inode).cloned());
        drop(cell.as_ref().map(|cell| locks::lock(&cell.io)));
        is_known()
    }
}

/// The pages of `body` that `holder` has now.
fn held_by(body: &FileBody, holder: LayerId, holdings: &Holdings) -> Vec<Range<u64>> {
    let mut held: Vec<Range<u64>> = Vec::new();
    let files = &holdings.media.files;
    for run in body.pages.runs(0..pages_in(body.size)) {
        if run.layer.is_none_or(|layer| files.resolve(layer) != holder) {
            continue;
        }
        match held.last_mut() {
            Some(last) if last.end == run.pages.start => last.end = run.pages.end,
            _ => held.push(run.pages),
        }
    }
    held
}

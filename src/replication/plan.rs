//! From an ordered list of changes to few statements with the same outcome.
//!
//! Inside one trunk transaction, changes of different tables may pass each other: in replica role
//! no trigger or foreign key looks across tables. Changes of one table keep their order, except
//! where the key's index is the only one that can refuse a row: there each key has one net change,
//! and different keys may pass each other. What is visible is only ever the end of a source
//! transaction, so nobody sees the difference.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use crate::source::TableName;

use super::by_address::{AddressMap, HashedMap};
use super::catalog::Mapping;
use super::change::Tuple;
use super::statement::{Kind, sets_nothing};

/// Rows that one statement applies, in order.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) kind: Kind,
    pub(super) new: Option<Arc<Mapping>>,
    pub(super) old: Option<Arc<Mapping>>,
    pub(super) rows: Vec<Pair>,
}

impl Step {
    /// The table it changes.
    pub(super) fn table(&self) -> Option<&TableName> {
        self.new.as_ref().or(self.old.as_ref()).map(|mapping| &mapping.table.name)
    }
}

/// A row's new and old values; which of them are there depends on the kind.
#[derive(Debug, Default)]
pub(super) struct Pair {
    pub(super) new: Option<Tuple>,
    pub(super) old: Option<Tuple>,
}

/// A row, and how it goes into the trunk.
type Row = (Arc<Mapping>, Tuple);

/// One change, its rows mapped to the trunk.
pub(super) enum Mapped {
    Insert(Row),
    /// Of the row with the same key.
    Update(Row),
    UpdateOf {
        old: Row,
        new: Row,
    },
    Delete(Row),
}

impl Mapped {
    /// The row that it makes, or else that it takes away.
    fn row(&self) -> &Row {
        match self {
            Self::Insert(row) | Self::Update(row) | Self::Delete(row) => row,
            Self::UpdateOf { new, .. } => new,
        }
    }

    fn bytes(&self) -> usize {
        let old = match self {
            Self::UpdateOf { old: (_, old), .. } => old.bytes(),
            _ => 0,
        };
        self.row().1.bytes() + old
    }
}

/// The changes collected for the next round of statements.
#[derive(Default)]
pub(super) struct Plan {
    tables: Vec<TablePlan>,
    /// By address of the table, which the mappings keep alive.
    index: AddressMap<usize>,
    pub(super) changes: usize,
    pub(super) bytes: usize,
}

#[derive(Default)]
struct TablePlan {
    steps: Vec<Step>,
    net: Net,
    /// Of keys, in all nets of the table.
    hashing: RandomState,
}

/// Net changes by key, each once. The text of a key's values decides: two texts of one value (1.0
/// and 1.00) never meet in one key, as the source sends a change of text as a change of key.
#[derive(Default)]
struct Net {
    /// Places of slots by hash of their key. Keys that share a hash do not share a net: the later
    /// comes after it.
    by_key: HashedMap<usize>,
    slots: Vec<Option<Slot>>,
}

struct Slot {
    kind: Kind,
    mapping: Arc<Mapping>,
    row: Tuple,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.changes == 0
    }

    /// Adds a change after all others of its table.
    pub(super) fn add(&mut self, mapped: Mapped) {
        let (mapping, _) = mapped.row();
        let address = Arc::as_ptr(&mapping.table).addr();
        let is_compactable = mapping.table.is_compactable;
        let tables = &mut self.tables;
        let index = *self.index.entry(address).or_insert_with(|| {
            tables.push(TablePlan::default());
            tables.len() - 1
        });
        self.changes += 1;
        self.bytes += mapped.bytes();
        if let Some(table) = self.tables.get_mut(index) {
            table.add(mapped, is_compactable);
        }
    }

    /// The statements, in an order that is right.
    pub(super) fn into_steps(self) -> Vec<Step> {
        let mut steps = Vec::new();
        for mut table in self.tables {
            table.close_net();
            steps.append(&mut table.steps);
        }
        steps
    }
}

impl TablePlan {
    fn add(&mut self, mapped: Mapped, is_compactable: bool) {
        match mapped {
            Mapped::Insert((mapping, row)) => self.put(Kind::Insert, mapping, row, is_compactable),
            Mapped::Update((mapping, row)) => {
                if !sets_nothing(&mapping) {
                    self.put(Kind::Update, mapping, row, is_compactable);
                }
            }
            Mapped::Delete((mapping, row)) => {
                let kind = if mapping.key.is_some() { Kind::Delete } else { Kind::DeleteWhole };
                self.put(kind, mapping, row, is_compactable);
            }
            Mapped::UpdateOf { old: (old, old_row), new: (new, new_row) } => {
                let kind = update_kind((&new, &new_row), (&old, &old_row));
                if kind == Kind::Update {
                    return self.add(Mapped::Update((new, new_row)), is_compactable);
                }
                self.close_net();
                let pair = Pair { new: Some(new_row), old: Some(old_row) };
                self.append(kind, Some(new), Some(old), pair);
            }
        }
    }

    fn put(&mut self, kind: Kind, mapping: Arc<Mapping>, row: Tuple, is_compactable: bool) {
        let slot = Slot { kind, mapping, row };
        let hash = if is_compactable { slot.hash(&self.hashing) } else { None };
        let Some(hash) = hash else {
            // Without compaction every change is a step of its own or joins the last one.
            let pair = pair(kind, slot.row);
            let (new, old) = sides(kind, slot.mapping);
            return self.append(kind, new, old, pair);
        };
        if let Some(slot) = self.net.merge(hash, slot) {
            self.close_net();
            self.net.insert(hash, slot);
        }
    }

    /// Ends compaction: what was collected becomes steps, and later changes come after them.
    fn close_net(&mut self) {
        let net = std::mem::take(&mut self.net);
        let first = self.steps.len();
        for slot in net.slots.into_iter().flatten() {
            let pair = pair(slot.kind, slot.row);
            let (new, old) = sides(slot.kind, slot.mapping);
            let fits = |step: &&mut Step| {
                step.kind == slot.kind
                    && same(step.new.as_ref(), new.as_ref())
                    && same(step.old.as_ref(), old.as_ref())
            };
            // Different keys may pass each other, so any step of this net that fits will do; steps
            // from before the net are shut.
            match self.steps.iter_mut().skip(first).find(fits) {
                Some(step) => step.rows.push(pair),
                _ => self.steps.push(Step { kind: slot.kind, new, old, rows: vec![pair] }),
            }
        }
    }

    fn append(
        &mut self,
        kind: Kind,
        new: Option<Arc<Mapping>>,
        old: Option<Arc<Mapping>>,
        pair: Pair,
    ) {
        let fits = |step: &&mut Step| {
            step.kind == kind
                && same(step.new.as_ref(), new.as_ref())
                && same(step.old.as_ref(), old.as_ref())
                && (matches!(kind, Kind::Insert | Kind::Delete) || kind.is_single())
        };
        match self.steps.last_mut().filter(fits) {
            Some(step) => step.rows.push(pair),
            None => self.steps.push(Step { kind, new, old, rows: vec![pair] }),
        }
    }
}

impl Slot {
    fn key(&self) -> impl Iterator<Item = Option<&[u8]>> {
        key_values(&self.row, self.mapping.key.as_deref().unwrap_or_default())
    }

    /// Of the key; none if there is no key, or not all of it.
    fn hash(&self, hashing: &RandomState) -> Option<u64> {
        self.mapping.key.as_ref()?;
        let mut hasher = hashing.build_hasher();
        for value in self.key() {
            value?.hash(&mut hasher);
        }
        Some(hasher.finish())
    }
}

impl Net {
    fn insert(&mut self, hash: u64, slot: Slot) {
        self.by_key.insert(hash, self.slots.len());
        self.slots.push(Some(slot));
    }

    /// Merges a change into what is known of its key. Gives it back if it has to come after.
    fn merge(&mut self, hash: u64, slot: Slot) -> Option<Slot> {
        let Some(present) = self.by_key.get(&hash).and_then(|at| self.slots.get_mut(*at)) else {
            self.insert(hash, slot);
            return None;
        };
        // What was inserted and deleted left nothing, and another key may take its place.
        let Some(before) = present else {
            *present = Some(slot);
            return None;
        };
        if !before.key().eq(slot.key()) {
            return Some(slot);
        }
        // A later row that brings all columns the earlier one brought replaces it.
        let covers = slot.mapping.is_complete || Arc::ptr_eq(&slot.mapping, &before.mapping);
        match (before.kind, slot.kind) {
            (Kind::Insert, Kind::Update) if covers => {
                *present = Some(Slot { kind: Kind::Insert, ..slot });
                None
            }
            (Kind::Update, Kind::Update) if covers => {
                *present = Some(slot);
                None
            }
            (Kind::Insert, Kind::Delete) => {
                *present = None;
                None
            }
            (Kind::Update, Kind::Delete) => {
                *present = Some(slot);
                None
            }
            _ => Some(slot),
        }
    }
}

fn same(a: Option<&Arc<Mapping>>, b: Option<&Arc<Mapping>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

fn pair(kind: Kind, row: Tuple) -> Pair {
    match kind {
        Kind::Delete | Kind::DeleteWhole => Pair { new: None, old: Some(row) },
        _ => Pair { new: Some(row), old: None },
    }
}

fn sides(kind: Kind, mapping: Arc<Mapping>) -> (Option<Arc<Mapping>>, Option<Arc<Mapping>>) {
    match kind {
        Kind::Delete | Kind::DeleteWhole => (None, Some(mapping)),
        _ => (Some(mapping), None),
    }
}

fn update_kind(new: (&Mapping, &Tuple), old: (&Mapping, &Tuple)) -> Kind {
    let (Some(new_key), Some(old_key)) = (&new.0.key, &old.0.key) else { return Kind::UpdateWhole };
    let values = |row, key| key_values(row, key);
    match values(new.1, new_key).eq(values(old.1, old_key)) {
        true => Kind::Update,
        false => Kind::Rekey,
    }
}

fn key_values<'a>(row: &'a Tuple, key: &'a [usize]) -> impl Iterator<Item = Option<&'a [u8]>> {
    key.iter().map(|position| row.value(*position))
}

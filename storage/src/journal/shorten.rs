//! Shortening the journal of a layer: what came and went within it need not be told.
//!
//! Left out are growths of a file that a later one overtakes with no cut between, attributes that
//! are set anew later, and everything about files and directories that the journal both makes and
//! removes. Where one of those took the
//! name of something that stays, a removal of that takes its place. These stay all the same:
//! * a directory in which something that stays ever lay;
//! * what took a name that perhaps something had which the journal did not make;
//! * what an exchange or the identity filter met;
//! * what bears the highest number, which must never be given out again.
//!
//! Invariant: what is left, replayed on the same namespace, comes to the same names, kinds, sizes,
//! contents, links and permissions, and the same next number. Only the times of a directory may be
//! those of an earlier change.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::edit::{Edit, Making, Name};
use super::record::Entry;
use crate::id::FileId;

/// Type and payload of a record that is left.
pub(crate) type Left<'a> = (u8, Cow<'a, [u8]>);

/// The records that are needed, in their order. `is_lowest` says that nothing lies below the layer.
pub(crate) fn shorten<'a>(entries: &[Entry<'a>], is_lowest: bool) -> Vec<Left<'a>> {
    let as_it_is = |entry: &Entry<'a>| (entry.kind, Cow::Borrowed(entry.payload));
    let Ok(edits) = entries.iter().map(Edit::decode).collect::<Result<Vec<_>, _>>() else {
        return entries.iter().map(as_it_is).collect();
    };
    let mut history = History::default();
    if is_lowest {
        history.known.insert(FileId::ROOT);
    }
    let roles: Vec<_> = edits.iter().map(|edit| history.tell(edit)).collect();
    let staying = history.staying();
    let stays = |inode: Option<FileId>| inode.is_none_or(|inode| staying.contains(&inode));
    let mut later = Later::default();
    let mut left = Vec::new();
    for ((entry, edit), role) in entries.iter().zip(&edits).zip(&roles).rev() {
        if stays(role.subject) {
            left.extend(later.leaves(edit).then(|| as_it_is(entry)));
        } else if let Edit::Rename { to, new, time, .. } = edit
            && role.victim.is_some_and(|victim| staying.contains(&victim))
        {
            let removal = Edit::Remove { parent: *to, name: new.clone(), time: *time };
            let (kind, payload) = removal.encode();
            left.push((kind, Cow::Owned(payload)));
        }
    }
    left.reverse();
    left
}

/// Who plays a part in an edit, of those that the journal made.
#[derive(Clone, Copy, Default)]
struct Role {
    /// Whom it is about; without it there is no edit.
    subject: Option<FileId>,
    /// Whose name the subject took.
    victim: Option<FileId>,
}

impl Role {
    const OTHERS: Self = Self { subject: None, victim: None };

    fn of(subject: FileId) -> Self {
        Self { subject: Some(subject), victim: None }
    }
}

/// What is set again later, from the last edit to the first.
#[derive(Default)]
struct Later {
    sizes: HashSet<FileId>,
    attributes: HashSet<FileId>,
}

impl Later {
    /// Whether an edit is more than a step on the way to what was reached later.
    fn leaves(&mut self, edit: &Edit) -> bool {
        match edit {
            Edit::Grow { inode, .. } => self.sizes.insert(*inode),
            Edit::Cut { inode, .. } | Edit::Empty { inode, .. } => {
                self.sizes.remove(inode);
                true
            }
            Edit::Attributes { inode, .. } => self.attributes.insert(*inode),
            _ => true,
        }
    }
}

/// A directory and a name in it.
type Place = (FileId, Name);

/// Who has a name.
#[derive(Clone, Copy)]
enum Holder {
    Nobody,
    /// Somebody that the journal did not make; perhaps nobody.
    Elder,
    Made(FileId),
}

/// What the journal made.
#[derive(Default)]
struct Life {
    names: u32,
    stays: bool,
    /// The directories it lay in, which stay if it does.
    lay_in: Vec<FileId>,
}

#[derive(Default)]
struct History {
    lives: HashMap<FileId, Life>,
    holders: HashMap<Place, Holder>,
    /// Directories of which every name is known.
    known: HashSet<FileId>,
    /// The highest number given to what the journal made, and who bears it.
    highest: Option<(FileId, FileId)>,
}

impl History {
    /// Goes on by one edit.
    fn tell(&mut self, edit: &Edit) -> Role {
        match edit {
            Edit::Make { parent, name, inode, making, .. } => {
                self.lives.insert(*inode, Life::default());
                self.number(*inode, *inode);
                if matches!(making, Making::Directory) {
                    self.known.insert(*inode);
                }
                self.link(*inode, (*parent, name.clone()))
            }
            Edit::Link { inode, parent, name, .. } => self.link(*inode, (*parent, name.clone())),
            Edit::Remove { parent, name, .. } => self.remove((*parent, name.clone())),
            Edit::Rename { parent, name, to, new, exchange, .. } => {
                let (from, to) = ((*parent, name.clone()), (*to, new.clone()));
                if *exchange { self.exchange(from, to) } else { self.rename(from, to) }
            }
            Edit::Attributes { inode, .. } | Edit::Grow { inode, .. } | Edit::Cut { inode, .. } => {
                self.changed(*inode)
            }
            Edit::Empty { inode, contents, .. } => {
                // A replay takes no number from an edit of what has no name any more. What stays
                // brings its numbers along, if it has one.
                if self.lives.get(inode).is_some_and(|life| life.names > 0 && !life.stays) {
                    self.number(*contents, *inode);
                }
                self.changed(*inode)
            }
            Edit::Filter => {
                self.lives.values_mut().filter(|life| life.names > 0).for_each(Life::stay);
                self.holders.clear();
                self.known.clear();
                Role::OTHERS
            }
        }
    }

    fn changed(&self, inode: FileId) -> Role {
        if self.lives.contains_key(&inode) { Role::of(inode) } else { Role::OTHERS }
    }

    fn number(&mut self, number: FileId, bearer: FileId) {
        if self.highest.is_none_or(|(highest, _)| number > highest) {
            self.highest = Some((number, bearer));
        }
    }

    /// Who has the name, and has it no more.
    fn take(&mut self, place: &Place) -> Holder {
        let unknown = if self.known.contains(&place.0) { Holder::Nobody } else { Holder::Elder };
        self.holders.insert(place.clone(), Holder::Nobody).unwrap_or(unknown)
    }

    /// A new name, which nobody has.
    fn link(&mut self, inode: FileId, place: Place) -> Role {
        if let Some(life) = self.lives.get_mut(&inode) {
            life.names += 1;
            self.settle(inode, place);
            return Role::of(inode);
        }
        self.stay(place.0);
        self.holders.insert(place, Holder::Elder);
        Role::OTHERS
    }

    fn remove(&mut self, place: Place) -> Role {
        if let Holder::Made(inode) = self.take(&place) {
            self.lose_name(inode);
            return Role::of(inode);
        }
        self.stay(place.0);
        Role::OTHERS
    }

    fn rename(&mut self, from: Place, to: Place) -> Role {
        let moved = self.take(&from);
        let replaced = self.take(&to);
        if let Holder::Made(victim) = replaced {
            self.lose_name(victim);
        }
        let Holder::Made(inode) = moved else {
            self.stay(from.0);
            self.stay(to.0);
            self.holders.insert(to, Holder::Elder);
            return Role::OTHERS;
        };
        let victim = match replaced {
            Holder::Nobody => None,
            Holder::Made(victim) if victim != inode => Some(victim),
            Holder::Made(_) | Holder::Elder => {
                self.stay(inode);
                None
            }
        };
        self.settle(inode, to);
        Role { subject: Some(inode), victim }
    }

    fn exchange(&mut self, one: Place, other: Place) -> Role {
        let (first, second) = (self.take(&one), self.take(&other));
        for (holder, to) in [(first, other), (second, one)] {
            self.stay(to.0);
            if let Holder::Made(inode) = holder {
                self.stay(inode);
            }
            self.holders.insert(to, holder);
        }
        Role::OTHERS
    }

    /// `inode` has the name now.
    fn settle(&mut self, inode: FileId, place: Place) {
        if let Some(life) = self.lives.get_mut(&inode) {
            life.lay_in.push(place.0);
        }
        self.holders.insert(place, Holder::Made(inode));
    }

    fn lose_name(&mut self, inode: FileId) {
        if let Some(life) = self.lives.get_mut(&inode) {
            life.names = life.names.saturating_sub(1);
        }
    }

    fn stay(&mut self, inode: FileId) {
        if let Some(life) = self.lives.get_mut(&inode) {
            life.stay();
        }
    }

    /// What stays of all that was made.
    fn staying(mut self) -> HashSet<FileId> {
        if let Some((_, bearer)) = self.highest {
            self.stay(bearer);
        }
        let mut open: Vec<_> = (self.lives.iter())
            .filter(|(_, life)| life.stays || life.names > 0)
            .map(|(inode, _)| *inode)
            .collect();
        let mut staying = HashSet::new();
        while let Some(inode) = open.pop() {
            if let Some(life) = self.lives.get(&inode)
                && staying.insert(inode)
            {
                open.extend(&life.lay_in);
            }
        }
        staying
    }
}

impl Life {
    fn stay(&mut self) {
        self.stays = true;
    }
}

#[cfg(test)]
mod tests;

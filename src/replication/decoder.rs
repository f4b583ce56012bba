//! One decoder for the stream, whichever plugin writes it: both speak in the same events.

use super::change::Event;
use super::error::Error;
use super::{pgoutput, wal2json};

use crate::lsn::Lsn;
use crate::source::Plugin;

use super::link::Link;

pub(super) enum Decoder {
    Wal2json(wal2json::Decoder),
    Pgoutput(pgoutput::Decoder),
}

impl Decoder {
    /// For a stream into a trunk that holds everything up to `applied`.
    pub(super) fn new(link: &Link, applied: Lsn) -> Self {
        match link.plugin {
            Plugin::Wal2json => Self::Wal2json(wal2json::Decoder::new(applied)),
            Plugin::Pgoutput => Self::Pgoutput(pgoutput::Decoder::new(applied, &link.excluded)),
        }
    }

    /// What the plugin is asked for, richest first.
    pub(super) fn options(link: &Link) -> Vec<(String, String)> {
        match link.plugin {
            Plugin::Wal2json => wal2json::options(&link.schemas, &link.excluded),
            Plugin::Pgoutput => pgoutput::options(link),
        }
    }

    /// Decodes one message and appends what it means.
    pub(super) fn decode(&mut self, payload: &[u8], events: &mut Vec<Event>) -> Result<(), Error> {
        match self {
            Self::Wal2json(decoder) => decoder.decode(payload, events),
            Self::Pgoutput(decoder) => decoder.decode(payload, events),
        }
    }

    /// True between the begin and the commit of a transaction.
    pub(super) fn is_in_transaction(&self) -> bool {
        match self {
            Self::Wal2json(decoder) => decoder.is_in_transaction(),
            Self::Pgoutput(decoder) => decoder.is_in_transaction(),
        }
    }
}

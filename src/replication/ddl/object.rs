//! Objects as facts, as `describe.sql` prints them on either side.

use std::collections::BTreeMap;

use serde::Deserialize;

/// An object of the database and everything that is so about it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Object {
    pub(super) class: Class,
    pub(super) oid: i64,
    /// Postgres' one-letter kind inside the class, such as `r` for tables.
    pub(super) kind: String,
    /// Oid of its schema.
    pub(super) namespace: i64,
    pub(super) schema: String,
    pub(super) name: String,
    /// As SQL names it; functions with their arguments.
    pub(super) target: String,
    /// Names by attribute number.
    pub(super) columns: BTreeMap<String, String>,
    pub(super) facts: Vec<Fact>,
}

/// What kind of catalog an object is in. In the order in which they need each other, mostly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub(super) enum Class {
    #[serde(rename = "schema")]
    Schema,
    #[serde(rename = "type")]
    Type,
    #[serde(rename = "function")]
    Function,
    #[serde(rename = "relation")]
    Relation,
    #[serde(rename = "default privileges")]
    DefaultPrivileges,
}

/// One fact; the head of `describe.sql` says what its parts mean.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Fact {
    pub(super) phase: i32,
    pub(super) key: String,
    pub(super) make: String,
    #[serde(default)]
    pub(super) first: Option<String>,
    #[serde(default)]
    pub(super) retry: Option<String>,
    #[serde(default)]
    pub(super) drop: Option<String>,
    #[serde(default)]
    pub(super) body: Option<String>,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) rename: Option<String>,
}

/// The `body` of a fact that is changed by making it again.
const REPLACE: &str = "replace";

impl Object {
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.class == other.class && self.target == other.target
    }

    /// Both tell of one object of the source, this one after the other.
    pub(super) fn is_newer(&self, other: &Self) -> bool {
        self.class == other.class && self.oid == other.oid
    }

    /// Ordinary tables, whose rows the stream brings.
    pub(super) fn is_table(&self) -> bool {
        self.class == Class::Relation && self.kind == "r"
    }

    /// The schema it belongs to or is.
    pub(super) fn schema_name(&self) -> &str {
        if self.class == Class::Schema { &self.name } else { &self.schema }
    }
}

impl Class {
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Schema, Self::Type, Self::Relation, Self::Function]
            .into_iter()
            .find(|class| class.as_str() == text)
    }

    /// As the trunk's record of names has it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Type => "type",
            Self::Relation => "relation",
            Self::Function => "function",
            Self::DefaultPrivileges => "default privileges",
        }
    }
}

impl Fact {
    /// The statement for where there is nothing yet.
    pub(super) fn creation(&self) -> &str {
        self.first.as_deref().unwrap_or(&self.make)
    }

    /// Made again over what is there, rather than dropped before.
    pub(super) fn is_replaceable(&self) -> bool {
        self.drop.is_none() || self.body.as_deref() == Some(REPLACE)
    }

    /// What the fact is about, the part before the first slash: `column`, `index`, `exists`.
    pub(super) fn kind(&self) -> &str {
        self.key.split('/').next().unwrap_or_default()
    }
}

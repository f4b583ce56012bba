//! Objects that the source dropped.

use crate::source::TableName;

use super::super::applier::Applier;
use super::super::error::Error;
use super::captured::Dropped;
use super::object::Class;
use super::{extension, known};

/// Kinds as Postgres names them in the list of dropped objects, and in a DROP statement. Columns,
/// constraints and the like are left to the comparison of the table they were part of.
const DROPPABLE: &[(&str, &str)] = &[
    ("aggregate", "AGGREGATE"),
    ("collation", "COLLATION"),
    ("function", "FUNCTION"),
    ("index", "INDEX"),
    ("materialized view", "MATERIALIZED VIEW"),
    ("operator", "OPERATOR"),
    ("policy", "POLICY"),
    ("procedure", "PROCEDURE"),
    ("rule", "RULE"),
    ("schema", "SCHEMA"),
    ("sequence", "SEQUENCE"),
    ("statistics object", "STATISTICS"),
    ("table", "TABLE"),
    ("trigger", "TRIGGER"),
    ("type", "TYPE"),
    ("view", "VIEW"),
];

impl Applier {
    /// What the statement named is dropped with all that depends on it, as on the source.
    pub(super) async fn undo(&mut self, dropped: &[Dropped]) -> Result<(), Error> {
        for object in dropped {
            if object.original && object.kind == "extension" {
                extension::uninstall(self, &object.identity).await?;
            }
            let word = DROPPABLE.iter().find(|(kind, _)| *kind == object.kind);
            if let (true, Some((_, word))) = (object.original, word) {
                let sql = format!("DROP {word} IF EXISTS {} CASCADE", object.identity);
                if let Err(refusal) = self.attempt(&sql).await? {
                    let identity = &object.identity;
                    self.warn(format!("{identity} is gone from the source only: {refusal}"));
                }
            }
            if let Some(class) = class(&object.kind) {
                known::forget(&self.session, class, object.oid).await?;
                self.replay.forget_unequal(|o| o.class == class && o.oid == object.oid);
            }
            if let ("table", Some(schema), Some(name)) =
                (object.kind.as_str(), &object.schema, &object.name)
            {
                let table = TableName { schema: schema.clone(), name: name.clone() };
                self.pardon(&table).await?;
            }
        }
        Ok(())
    }
}

fn class(kind: &str) -> Option<Class> {
    match kind {
        "table" | "view" | "materialized view" | "sequence" | "composite type" => {
            Some(Class::Relation)
        }
        "type" => Some(Class::Type),
        "function" | "procedure" => Some(Class::Function),
        "schema" => Some(Class::Schema),
        _ => None,
    }
}

//! Errors of the layers below, in the words and codes of SQL.

use storage::{Advice, RefusalCode};

use crate::admin::{OperationError, sqlstate};
use crate::branch::BranchError;
use crate::catalog::CatalogError;
use crate::cause::Causes;
use crate::compute::ComputeError;
use crate::connector::{ConnectorError, CutError};
use crate::store::StoreError;

/// SQLSTATE `57P03`: the server is going down.
const CANNOT_CONNECT_NOW: &str = "57P03";
/// SQLSTATE `58000`: the system under the database failed.
const SYSTEM_ERROR: &str = "58000";

/// No object of that kind and name.
pub(super) fn undefined(kind: &str, name: &str) -> OperationError {
    OperationError::new(sqlstate::UNDEFINED_OBJECT, format!("{kind} \"{name}\" does not exist"))
        .with_hint(format!("ARDENT {} LIST shows what exists.", kind.to_uppercase()))
}

pub(super) fn catalog(error: CatalogError) -> OperationError {
    match error {
        CatalogError::Taken(what) => {
            OperationError::new(sqlstate::DUPLICATE_OBJECT, format!("{what} already exists"))
                .with_hint("Choose another name.")
        }
        error => internal(&error),
    }
}

pub(super) fn connector(error: ConnectorError) -> OperationError {
    match error {
        ConnectorError::NotFound(name) => undefined("connector", &name),
        ConnectorError::Catalog(error) => catalog(error),
        ConnectorError::Stopping => stopping(),
        ConnectorError::NoWay(_) => {
            OperationError::new(sqlstate::UNDEFINED_OBJECT, error.to_string())
                .with_hint("ARDENT ENVIRONMENT LIST and PRIVATE LINK LIST show what exists.")
        }
        ConnectorError::NotDrained(_) => {
            OperationError::new(sqlstate::WRONG_STATE, error.to_string())
                .with_detail("The connector stays: changes of the source are still to be applied.")
                .with_hint("Try again later, or skip the wait with --force (FORCE).")
        }
        ConnectorError::SourceCleanup { reason, sql } => OperationError::new(
            sqlstate::CONNECTION_FAILURE,
            format!("source cannot be cleaned up now: {reason}"),
        )
        .with_detail("The connector stays and its removal is tried again until it succeeds.")
        .with_hint(format!("If the source is still there, run on it: {sql}")),
        error => internal(&error),
    }
}

pub(super) fn cut(error: &CutError) -> OperationError {
    let refused = OperationError::new(sqlstate::WRONG_STATE, error.to_string());
    match error {
        CutError::NotReady { name, message, .. } => {
            let refused = match message {
                Some(message) => refused.with_detail(format!("{message}.")),
                None => refused,
            };
            refused.with_hint(format!("ARDENT CONNECTOR STATUS {name} shows how far it is."))
        }
        CutError::Compute(error) => compute(error),
        CutError::Stopping => stopping(),
        CutError::Trunk(_) => refused.with_hint("Try again in a moment."),
    }
}

pub(super) fn branch(error: BranchError) -> OperationError {
    match error {
        BranchError::NotFound(name) => undefined("branch", &name),
        BranchError::Taken(_) => OperationError::new(sqlstate::DUPLICATE_OBJECT, error.to_string())
            .with_hint("Choose another name, or delete the branch first."),
        BranchError::TooMany(_) => {
            OperationError::new(sqlstate::INSUFFICIENT_RESOURCES, error.to_string())
                .with_hint("Delete branches, or raise branch.branches_max.")
        }
        BranchError::Role { .. } => {
            OperationError::new(sqlstate::INVALID_PARAMETER, error.to_string())
                .with_hint("Name a role of the source that may log in.")
        }
        BranchError::Hook { ref branch, .. } => {
            OperationError::new(sqlstate::WRONG_STATE, error.to_string())
                .with_detail("The branch is kept, and nobody can connect to it.")
                .with_hint(format!(
                    "Mend the hook and create the branch again, or: ardent branch delete {branch}"
                ))
        }
        BranchError::Failed(_) => OperationError::new(sqlstate::WRONG_STATE, error.to_string())
            .with_hint("Delete it, or create it again once its hook is mended."),
        BranchError::Cut(error) => cut(&error),
        BranchError::Compute(error) => compute(&error),
        BranchError::Catalog(error) => catalog(error),
        BranchError::Stopping => stopping(),
        BranchError::Compare(error) => {
            OperationError::new(sqlstate::CONNECTION_FAILURE, error.chain())
                .with_hint("Nothing was changed; try again.")
        }
        BranchError::Store(error) => store(&error),
        BranchError::Triggers(_) | BranchError::Secret(_) => internal(&error),
    }
}

/// A full disk is the operator's to mend; anything else should not happen.
fn store(error: &StoreError) -> OperationError {
    match error {
        StoreError::Refused(storage::Error::Refused { code: RefusalCode::NoSpace, message }) => {
            OperationError::new(sqlstate::DISK_FULL, "no disk space is left for another branch")
                .with_detail(format!("{message}."))
                .with_hint(
                    "Delete branches, or make room on the disk under the data directory. \
                     store.reserve_mb is kept for the branches that exist.",
                )
        }
        StoreError::Refused(error) if error.advice() == Advice::Retry => {
            OperationError::new(sqlstate::CANNOT_CONNECT_NOW, Causes(error).to_string())
                .with_hint("The store is started again when it ends; try again in a moment.")
        }
        error => internal(error),
    }
}

pub(super) fn compute(error: &ComputeError) -> OperationError {
    match error {
        ComputeError::Stopping => stopping(),
        ComputeError::Store(error) => store(error),
        error => OperationError::new(SYSTEM_ERROR, Causes(error).to_string())
            .with_hint("The compute's log is in the log folder of the data directory."),
    }
}

fn stopping() -> OperationError {
    OperationError::new(CANNOT_CONNECT_NOW, "the server is shutting down")
}

/// Something that should not happen: told to the operator, and logged for whoever mends it.
pub(super) fn internal(error: &dyn std::error::Error) -> OperationError {
    let line = Causes(error).to_string();
    tracing::error!(error = %line, "operation failed");
    OperationError::new(sqlstate::INTERNAL, line).with_hint("The server's log has more.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_has_its_own_code_and_a_way_out() {
        let full = storage::Error::Refused {
            code: RefusalCode::NoSpace,
            message: "5 bytes are left".to_owned(),
        };
        let error = branch(BranchError::Store(StoreError::Refused(full)));
        assert_eq!(error.sqlstate, "53100");
    }
}

//! The catalog keeps what it was told, and refuses files it does not know.

use super::*;

fn catalog() -> Catalog {
    let connection = Connection::open_in_memory().unwrap();
    schema::prepare(&connection).unwrap();
    Catalog(Mutex::new(connection))
}

fn connector(name: &str) -> NewConnector {
    NewConnector {
        name: name.to_owned(),
        url: vec![1, 2, 3],
        schemas: vec!["public".to_owned()],
        decisions: "{}".to_owned(),
        plugin: "wal2json".to_owned(),
        system_identifier: "7".to_owned(),
        database_oid: 5,
        database: "shop".to_owned(),
    }
}

fn branch(name: &str, endpoint: &str, connector: ConnectorId) -> NewBranch {
    NewBranch {
        kind: BranchKind::User,
        connector,
        name: name.to_owned(),
        endpoint: Some(endpoint.to_owned()),
        parent: None,
        major: 15,
        database: "shop".to_owned(),
        role: "branch_owner".to_owned(),
        password: None,
        verifier: None,
        max_size_bytes: Some(10 << 30),
    }
}

#[test]
fn connector_names_are_unique() {
    let catalog = catalog();
    let id = catalog.insert_connector(&connector("prod")).unwrap();
    let error = catalog.insert_connector(&connector("prod")).unwrap_err();
    assert_eq!(error.to_string(), "connector \"prod\" already exists");
    catalog.set_connector_state(id, ConnectorState::Broken, Some("slot is gone")).unwrap();
    let stored = catalog.connector("prod").unwrap().unwrap();
    assert_eq!((stored.state, stored.id.to_string()), (ConnectorState::Broken, "c1".to_owned()));
    assert_eq!(catalog.connector_of_source("7", 5).unwrap().as_deref(), Some("prod"));
    assert_eq!(catalog.connector_of_source("7", 6).unwrap(), None);
}

#[test]
fn branch_numbers_are_never_reused() {
    let catalog = catalog();
    let id = catalog.insert_connector(&connector("prod")).unwrap();
    let first = catalog.insert_branch(&branch("a", "a", id)).unwrap().number;
    catalog.delete_branch(first).unwrap();
    let second = catalog.insert_branch(&branch("a", "a", id)).unwrap().number;
    assert!(second > first);
    assert!(catalog.insert_branch(&branch("a", "b", id)).is_err(), "name is taken");
    assert!(catalog.insert_branch(&branch("b", "a", id)).is_err(), "endpoint is taken");
}

#[test]
fn branch_keeps_its_position() {
    let catalog = catalog();
    let id = catalog.insert_connector(&connector("prod")).unwrap();
    let number = catalog.insert_branch(&branch("a", "a", id)).unwrap().number;
    let at = from_micros(1_700_000_000_000_001);
    catalog.set_branch_position(number, "1/2A".parse().ok(), Some(at), true).unwrap();
    catalog.set_branch_state(number, BranchState::Active).unwrap();
    let stored = catalog.branches().unwrap().remove(0);
    assert_eq!(stored.lsn.unwrap().to_string(), "1/2A");
    assert_eq!((stored.commit_time, stored.stale), (Some(at), true));
    assert_eq!(stored.state, BranchState::Active);
}

#[test]
fn role_verifiers_go_with_their_branch() {
    let catalog = catalog();
    let id = catalog.insert_connector(&connector("prod")).unwrap();
    let number = catalog.insert_branch(&branch("a", "a", id)).unwrap().number;
    let role = RoleVerifier {
        role: "app".to_owned(),
        verifier: Some("SCRAM".to_owned()),
        valid_until: Some(from_micros(5)),
        can_login: true,
    };
    catalog.set_role_verifiers(number, std::slice::from_ref(&role)).unwrap();
    assert_eq!(catalog.role_verifier(number, "app").unwrap(), Some(role));
    catalog.delete_branch(number).unwrap();
    assert_eq!(catalog.role_verifier(number, "app").unwrap(), None);
}

#[test]
fn refuses_another_format() {
    let connection = Connection::open_in_memory().unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    let error = schema::prepare(&connection).unwrap_err();
    assert!(error.to_string().contains("catalog format 99"), "{error}");
}

/// A file of format 1 gets what it lacks, and keeps what it has.
#[test]
fn a_catalog_of_the_format_before_is_raised() {
    let catalog = catalog();
    let id = catalog.insert_connector(&connector("prod")).unwrap();
    let made = NewBranch { max_size_bytes: None, ..branch("a", "a", id) };
    catalog.insert_branch(&made).unwrap();
    let connection = catalog.0.into_inner().unwrap();
    let earlier = "ALTER TABLE branch DROP COLUMN max_size; PRAGMA user_version = 1;";
    connection.execute_batch(earlier).unwrap();
    schema::prepare(&connection).unwrap();
    let catalog = Catalog(Mutex::new(connection));
    let kept = &catalog.branches().unwrap()[0].made;
    assert_eq!((kept.name.as_str(), kept.max_size_bytes), ("a", None));
    let limited = catalog.insert_branch(&branch("b", "b", id)).unwrap();
    assert_eq!(catalog.branches().unwrap()[1].made.max_size_bytes, limited.made.max_size_bytes);
}

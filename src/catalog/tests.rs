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
        environment: None,
        private_link: None,
        drop_extensions: Vec::new(),
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
        default_database: None,
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
    assert_eq!((stored.state, stored.id), (ConnectorState::Broken, id));
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
    let mut record = catalog.insert_branch(&branch("a", "a", id)).unwrap();
    let at = from_micros(1_700_000_000_000_001);
    (record.lsn, record.commit_time, record.stale) = ("1/2A".parse().ok(), Some(at), true);
    record.state = BranchState::Active;
    catalog.settle_branch(&record).unwrap();
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

#[test]
fn hooks_run_by_position_and_go_with_their_connector() {
    let catalog = catalog();
    let id = catalog.insert_connector(&connector("prod")).unwrap();
    let hook = |name: &str, position| Hook {
        name: name.to_owned(),
        position,
        sql: "select 1".to_owned(),
        database: None,
        run_as: None,
    };
    for hook in [hook("b", 2), hook("a", 2), hook("late", 9), hook("late", 1)] {
        catalog.set_hook(id, &hook).unwrap();
    }
    let names = |catalog: &Catalog| -> Vec<String> {
        catalog.hooks(id).unwrap().into_iter().map(|hook| hook.name).collect()
    };
    assert_eq!(names(&catalog), ["late", "a", "b"]);
    assert!(catalog.remove_hooks(id, Some("a")).unwrap());
    assert!(!catalog.remove_hooks(id, Some("a")).unwrap());
    catalog.set_setting(id, SettingKey::DefaultDb, "app").unwrap();
    catalog.delete_connector(id).unwrap();
    assert!(names(&catalog).is_empty() && catalog.settings(id).unwrap().is_empty());
}

#[test]
fn what_a_connector_goes_through_cannot_be_deleted() {
    let catalog = catalog();
    let environment = EnvironmentRecord {
        name: "env_1".to_owned(),
        address: "socks5://h:1080".to_owned(),
        url: vec![1],
        key: None,
        known_host: None,
        created_at: from_micros(5),
    };
    catalog.insert_environment(&environment).unwrap();
    assert!(catalog.insert_environment(&environment).is_err(), "name is taken");
    let through = NewConnector { environment: Some("env_1".to_owned()), ..connector("prod") };
    let id = catalog.insert_connector(&through).unwrap();
    assert!(catalog.delete_environment("env_1").is_err());
    catalog.delete_connector(id).unwrap();
    assert!(catalog.delete_environment("env_1").unwrap());
    assert!(catalog.environments().unwrap().is_empty());
}

#[test]
fn a_connector_is_named_as_no_other_server_names_one() {
    let printed = |number| ConnectorId(number).to_string();
    assert_eq!([printed(7), printed(1 << 31)], ["c7", "conn_000000"]);
    assert_eq!(printed((1 << 31) + 36_i64.pow(6) - 1), "conn_zzzzzz");
    let ids =
        [catalog(), catalog()].map(|catalog| catalog.insert_connector(&connector("a")).unwrap());
    assert_ne!(ids[0], ids[1]);
}

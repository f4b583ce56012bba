//! Forks of a Postgres in the middle of what changes many files at once: each recovers and is whole.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::postgres::{Cluster, postgres, run};
use crate::served::{Served, id};

/// What runs again and again while forks are cut, statement by statement.
const WORK: [(&str, &[&str]); 4] = [
    ("checkpoint", &["checkpoint"]),
    (
        "truncation by vacuum",
        &[
            "insert into filler select repeat('x', 2000) from generate_series(1, 2000)",
            "delete from filler",
            "vacuum (truncate) filler",
        ],
    ),
    ("create index", &["create index busy on pgbench_accounts (abalance, bid)", "drop index busy"]),
    (
        "drop table",
        &[
            "create table passing as select * from pgbench_accounts limit 20000",
            "create index on passing (aid)",
            "drop table passing",
        ],
    ),
];

/// Does the work over and over.
fn repeat(trunk: &Cluster<'_>, statements: &[&str], end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        for sql in statements {
            trunk.sql(sql);
        }
    }
}

fn busy_trunk(served: &Served) -> Cluster<'_> {
    served.client().create(id(1), postgres()).unwrap();
    run("initdb", &["-k", "-A", "trust", "-D", served.branch(1).to_str().unwrap()]);
    let trunk = Cluster::start(served, 1);
    trunk.pgbench(&["-i", "-s", "1", "-q"]);
    trunk.sql("create table filler (text text)");
    trunk
}

#[test]
fn forks_cut_in_the_middle_of_work_recover_whole() {
    let served = Served::new();
    let trunk = busy_trunk(&served);
    let halt = AtomicBool::new(false);
    let mut next = 2;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !halt.load(Ordering::Relaxed) {
                trunk.pgbench(&["-n", "-c", "2", "-t", "50"]);
            }
        });
        for (what, statements) in WORK {
            let end = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| repeat(&trunk, statements, &end));
                for round in 0..3 {
                    served.client().fork(id(1), id(next), postgres()).unwrap();
                    let child = Cluster::start(&served, next);
                    println!("{what}, fork {round}");
                    child.check();
                    child.stop("immediate");
                    served.client().delete(id(next)).unwrap();
                    next += 1;
                }
                end.store(true, Ordering::Relaxed);
            });
        }
        halt.store(true, Ordering::Relaxed);
    });
    served.assert_sound();
    trunk.check();
    trunk.stop("fast");
}

/// A running Postgres at depth 100: each branch is cut from the one before, which is then gone.
#[test]
fn a_postgres_a_hundred_branches_deep_recovers_whole() {
    let served = Served::new();
    let trunk = busy_trunk(&served);
    trunk.pgbench(&["-n", "-c", "2", "-t", "20"]);
    for number in 2..=101 {
        served.client().fork(id(number - 1), id(number), postgres()).unwrap();
        std::fs::write(served.branch(number).join("mark"), number.to_string()).unwrap();
    }
    let deep = Cluster::start(&served, 101);
    deep.check();
    deep.pgbench(&["-n", "-c", "2", "-t", "20"]);
    trunk.stop("fast");
    for number in 1..=100 {
        served.client().delete(id(number)).unwrap();
    }
    deep.pgbench(&["-n", "-c", "2", "-t", "20"]);
    deep.check();
    served.assert_sound();
    deep.stop("fast");
}

//! A seeded differential fuzzer: schema changes and rows at random on a source, with crashes in
//! between, and then the trunk has to be the source.
//!
//! `ARDENT_FUZZ_SEED` replays a seed; `ARDENT_FUZZ_ROUNDS` sets how many rounds a seed runs for, so
//! that `ARDENT_FUZZ_ROUNDS=2000 cargo test --lib fuzz` is a long run.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::support::Chain;

const FIXED_SEED: u64 = 20_261_122;
const ROUNDS: usize = 20;
const TABLES_MAX: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_seed_finds_nothing() {
    run(FIXED_SEED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_seed_finds_nothing() {
    let given = std::env::var("ARDENT_FUZZ_SEED").ok();
    run(given.map_or_else(rand::random, |seed| seed.parse().expect("a number"))).await;
}

/// What the source has, as far as the generator needs to know.
struct Model {
    random: StdRng,
    tables: Vec<Table>,
    named: u32,
}

struct Table {
    name: String,
    columns: Vec<String>,
}

async fn run(seed: u64) {
    println!("seed {seed}");
    let rounds = std::env::var("ARDENT_FUZZ_ROUNDS").ok();
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().expect("a number"));
    let mut model = Model { random: StdRng::seed_from_u64(seed), tables: Vec::new(), named: 0 };
    let mut chain = Chain::start("CREATE TABLE first (id int PRIMARY KEY)").await;
    let mut told = Vec::new();
    for round in 0..rounds {
        let script = model.script();
        told.push(script.clone());
        let session = chain.source.session("app").await;
        session.batch_execute("SET search_path = public").await.unwrap();
        // What the source refuses undoes itself, and the trunk never hears of it.
        let refused = session.batch_execute(&script).await.err();
        session.close().await;
        if let Some(error) = refused {
            told.push(format!("-- refused: {}", error.as_db_error().unwrap().message()));
            model.learn(&chain).await;
        }
        match model.random.random_range(0..12) {
            0 => {
                chain.replication = None;
                chain.trunk.crash().await;
                chain.follow();
            }
            1 => chain.source.crash().await,
            2 => {
                chain.replication = None;
                chain.follow();
            }
            _ => {}
        }
        if round % 5 == 4 || round + 1 == rounds {
            compare(&chain, seed, &told).await;
        }
    }
}

async fn compare(chain: &Chain, seed: u64, told: &[String]) {
    chain.catch_up().await;
    chain.settle().await;
    let said = || format!("seed {seed}:\n{}", told.join("\n"));
    if let Some(difference) = chain.schema_difference() {
        panic!("{difference}\n{}", said());
    }
    println!("{}", said());
    chain.assert_equal().await;
}

impl Model {
    /// Some statements, half of the time as one transaction.
    fn script(&mut self) -> String {
        let count = self.random.random_range(1..6);
        let statements: Vec<String> = (0..count).map(|_| self.statement()).collect();
        let text = statements.join(";\n");
        match self.random.random_range(0..4) {
            0 => format!("DO $fuzz$ BEGIN {text}; END $fuzz$"),
            1 => statements.join(";\nCOMMIT; BEGIN;\n"),
            2 => {
                format!("SAVEPOINT a; {text}; RELEASE a").replacen(
                    "SAVEPOINT",
                    "BEGIN; SAVEPOINT",
                    1,
                ) + "; COMMIT"
            }
            _ => text,
        }
    }

    fn name(&mut self, stem: &str) -> String {
        self.named += 1;
        match self.random.random_range(0..6) {
            0 => format!("\"{stem} {}\"", self.named),
            1 => format!("\"{}.{}\"", stem.to_uppercase(), self.named),
            _ => format!("{stem}{}", self.named),
        }
    }

    fn statement(&mut self) -> String {
        if self.tables.is_empty() || self.tables.len() < TABLES_MAX && self.random.random_bool(0.15)
        {
            return self.create();
        }
        let at = self.random.random_range(0..self.tables.len());
        match self.random.random_range(0..20) {
            0..=5 => self.insert(at),
            6..=8 => self.update(at),
            9 => format!("DELETE FROM {} WHERE id % 7 = 3", self.tables[at].name),
            10..=11 => self.add_column(at),
            12 => self.drop_column(at),
            13 => self.rename(at),
            14 => self.rename_column(at),
            15 => {
                let index = self.name("i");
                format!("CREATE INDEX {index} ON {} (id, ({}))", self.tables[at].name, "id + 1")
            }
            16 => self.change_type(at),
            17 => format!("TRUNCATE {}", self.tables[at].name),
            18 if self.tables.len() > 1 => {
                format!("DROP TABLE {} CASCADE", self.tables.swap_remove(at).name)
            }
            _ => {
                let table = self.tables[at].name.clone();
                let view = self.name("v");
                format!("CREATE VIEW {view} AS SELECT id FROM {table}")
            }
        }
    }

    fn create(&mut self) -> String {
        let name = self.name("t");
        self.tables.push(Table { name: name.clone(), columns: Vec::new() });
        match self.random.random_range(0..3) {
            0 => format!("CREATE TABLE {name} (id serial PRIMARY KEY)"),
            1 => {
                format!("CREATE TABLE {name} (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)")
            }
            _ => format!(
                "CREATE TABLE {name} AS SELECT g AS id FROM generate_series(1, 5) g; \
                 ALTER TABLE {name} ADD PRIMARY KEY (id)"
            ),
        }
    }

    fn insert(&mut self, at: usize) -> String {
        let rows = self.random.random_range(1..40);
        let table = &self.tables[at].name;
        format!(
            "INSERT INTO {table} (id) SELECT g + coalesce((SELECT max(id) FROM {table}), 0)
               FROM generate_series(1, {rows}) g"
        )
    }

    fn update(&mut self, at: usize) -> String {
        let value = self.random.random_range(0..1_000);
        let table = &self.tables[at];
        match table.columns.first() {
            Some(column) => format!(
                "UPDATE {} SET {column} = '{value}' WHERE id % 3 = {}",
                table.name,
                value % 3
            ),
            None => {
                format!("UPDATE {0} SET id = -id WHERE id = (SELECT max(id) FROM {0})", table.name)
            }
        }
    }

    fn add_column(&mut self, at: usize) -> String {
        let column = self.name("c");
        let kinds = [
            "int",
            "text",
            "int DEFAULT 7",
            "text NOT NULL DEFAULT 'x'",
            "numeric(20,4) DEFAULT 1.5",
            "float8 DEFAULT random() * 100",
            "varchar(30)",
            "text DEFAULT clock_timestamp()::text",
        ];
        let kind = kinds[self.random.random_range(0..kinds.len())];
        let table = &mut self.tables[at];
        table.columns.push(column.clone());
        format!("ALTER TABLE {} ADD COLUMN {column} {kind}", table.name)
    }

    fn drop_column(&mut self, at: usize) -> String {
        let table = &mut self.tables[at];
        match table.columns.pop() {
            Some(column) => format!("ALTER TABLE {} DROP COLUMN {column} CASCADE", table.name),
            None => format!("COMMENT ON TABLE {} IS 'bare'", table.name),
        }
    }

    fn rename(&mut self, at: usize) -> String {
        let to = self.name("r");
        let from = std::mem::replace(&mut self.tables[at].name, to.clone());
        format!("ALTER TABLE {from} RENAME TO {to}")
    }

    fn rename_column(&mut self, at: usize) -> String {
        let to = self.name("n");
        let table = &mut self.tables[at];
        match table.columns.last_mut() {
            Some(column) => {
                let from = std::mem::replace(column, to.clone());
                format!("ALTER TABLE {} RENAME COLUMN {from} TO {to}", table.name)
            }
            None => format!("ALTER TABLE {} REPLICA IDENTITY FULL", table.name),
        }
    }

    fn change_type(&mut self, at: usize) -> String {
        let table = &self.tables[at];
        match table.columns.last() {
            Some(column) => {
                format!(
                    "ALTER TABLE {} ALTER COLUMN {column} TYPE text USING {column}::text || ''",
                    table.name
                )
            }
            None => format!("ALTER TABLE {} SET (fillfactor = 80)", table.name),
        }
    }

    /// Reads what is there after a script that was refused.
    async fn learn(&mut self, chain: &Chain) {
        let session = chain.source.session("app").await;
        let rows = session.query(TABLES_SQL, &[]).await.unwrap();
        session.close().await;
        let table = |row: &tokio_postgres::Row| Table { name: row.get(0), columns: row.get(1) };
        self.tables = rows.iter().map(table).collect();
    }
}

const TABLES_SQL: &str = "\
SELECT quote_ident(c.relname), ARRAY(
         SELECT quote_ident(a.attname) FROM pg_attribute a
          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'id'
          ORDER BY a.attnum)
  FROM pg_class c
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'first'
 ORDER BY c.oid";

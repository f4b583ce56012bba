//! What users of sqlx do, in the language of its users: part of the driver matrix.

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use sqlx::{Acquire, ConnectOptions, PgConnection, Row};

/// Leaves the branch as it was.
#[track_caller]
pub(crate) fn does_it(url: &str) {
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    if let Err(error) = runtime.block_on(everything(url)) {
        panic!("sqlx {url}: {error}");
    }
}

async fn everything(url: &str) -> sqlx::Result<()> {
    let pool = PgPoolOptions::new().max_connections(3).connect(url).await?;
    queries(&pool).await?;
    transactions(&mut *pool.acquire().await?).await?;
    copies(&pool).await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen_all(["news", "other news"]).await?;
    sqlx::query("select pg_notify('news', $1)").bind("hello").execute(&pool).await?;
    assert_eq!(listener.recv().await?.payload(), "hello");
    drop(listener);
    pool.close().await;
    startup_options(url).await
}

async fn queries(pool: &PgPool) -> sqlx::Result<()> {
    let answers = (0..30).map(|n: i32| {
        // Named and kept, but for every third.
        let query = sqlx::query_scalar::<_, i32>("select $1::int").bind(n);
        query.persistent(n % 3 > 0).fetch_one(pool)
    });
    assert_eq!(try_join_all(answers).await?, (0..30).collect::<Vec<_>>());
    let sql = "select $1::text as a, $2::int[] as b, $3::bytea as c, null::int as d";
    let query = sqlx::query(sql).bind("\u{e9}").bind([1, 2]).bind(vec![0_u8; 100_000]);
    let row = query.fetch_one(pool).await?;
    assert_eq!(row.get::<String, _>("a"), "\u{e9}");
    assert_eq!(row.get::<Vec<i32>, _>("b"), [1, 2]);
    assert_eq!(row.get::<Vec<u8>, _>("c").len(), 100_000);
    assert_eq!(row.get::<Option<i32>, _>("d"), None);
    let mut rows = sqlx::query_scalar::<_, i32>("select generate_series(1, 20000)").fetch(pool);
    let mut sum = 0_i64;
    while let Some(n) = rows.try_next().await? {
        sum += i64::from(n);
    }
    assert_eq!(sum, 200_010_000);
    let both = sqlx::raw_sql("select 1; select 2").fetch_all(pool).await?;
    assert_eq!(both.len(), 2);
    let failed = sqlx::query("select 1 / $1").bind(0).execute(pool).await;
    assert_eq!(sqlstate(failed), "22012");
    Ok(())
}

async fn transactions(connection: &mut PgConnection) -> sqlx::Result<()> {
    let mut outer = connection.begin().await?;
    sqlx::query("create temp table t (n int) on commit drop").execute(&mut *outer).await?;
    for end_well in [true, false] {
        let mut inner = outer.begin().await?;
        sqlx::query("insert into t values (1)").execute(&mut *inner).await?;
        if end_well {
            inner.commit().await?;
        }
    }
    let kept = sqlx::query_scalar::<_, i64>("select count(*) from t").fetch_one(&mut *outer);
    assert_eq!(kept.await?, 1, "one savepoint was kept, one rolled back");
    outer.commit().await
}

async fn copies(pool: &PgPool) -> sqlx::Result<()> {
    let lines: String = (0..20_000).map(|n| format!("{n}\tline\n")).collect();
    let mut connection = pool.acquire().await?;
    let create = sqlx::query("create temp table lines (n int, t text)");
    create.execute(&mut *connection).await?;
    let mut copy = connection.copy_in_raw("copy lines from stdin").await?;
    for chunk in lines.as_bytes().chunks(10_000) {
        copy.send(chunk).await?;
    }
    assert_eq!(copy.finish().await?, 20_000);
    let copy = connection.copy_in_raw("copy lines from stdin").await?;
    copy.abort("changed my mind").await?;
    let out = connection.copy_out_raw("copy lines to stdout").await?;
    let got = out.try_collect::<Vec<_>>().await?.concat();
    assert!(got == lines.as_bytes(), "{} bytes came back", got.len());
    sqlx::query("drop table lines").execute(&mut *connection).await?;
    Ok(())
}

async fn startup_options(url: &str) -> sqlx::Result<()> {
    let options: PgConnectOptions = url.parse()?;
    let options = options.options([("statement_timeout", "100ms")]).application_name("matrix");
    let mut connection = options.connect().await?;
    let slept = sqlx::query("select pg_sleep(60)").execute(&mut connection).await;
    assert_eq!(sqlstate(slept), "57014");
    let name = sqlx::query_scalar::<_, String>("show application_name");
    assert_eq!(name.fetch_one(&mut connection).await?, "matrix");
    Ok(())
}

fn sqlstate<T: std::fmt::Debug>(result: sqlx::Result<T>) -> String {
    let error = result.expect_err("it fails");
    let code = error.as_database_error().and_then(|error| error.code());
    code.expect("an error of the server").into_owned()
}

//! What users of tokio-postgres do: part of the driver matrix.

use std::future::poll_fn;
use std::sync::Arc;

use futures_util::future::{join_all, try_join_all};
use futures_util::{SinkExt, TryStreamExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

const RUNNING: &str = "select from pg_stat_activity where wait_event = 'PgSleep'";

/// Leaves the branch as it was.
#[track_caller]
pub(crate) fn does_it(url: &str) {
    let runtime = tokio::runtime::Runtime::new().expect("start a runtime");
    if let Err(error) = runtime.block_on(everything(url)) {
        panic!("tokio-postgres {url}: {error:?}");
    }
}

/// This driver's own options for what the URL of libpq says.
fn options(url: &str) -> (Config, Option<String>) {
    let (url, query) = url.split_once('?').unwrap_or((url, ""));
    let mut config: Config = url.parse().expect("a URL");
    let root = query.split('&').find_map(|option| option.strip_prefix("sslrootcert="));
    match root {
        Some(_) => config.ssl_mode(SslMode::Require).channel_binding(ChannelBinding::Require),
        None => config.ssl_mode(SslMode::Disable),
    };
    (config, root.map(str::to_owned))
}

fn encrypted(root: &str) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(root).expect("read the root") {
        roots.add(certificate.expect("a certificate")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    MakeRustlsConnect::new(builder.with_root_certificates(roots).with_no_client_auth())
}

/// With what the server says unasked.
async fn connect(
    (config, root): &(Config, Option<String>),
) -> Result<(Client, UnboundedReceiver<AsyncMessage>), Error> {
    Ok(match root {
        Some(root) => driven(config.connect(encrypted(root)).await?),
        None => driven(config.connect(NoTls).await?),
    })
}

fn driven<S, T>(
    (client, mut connection): (Client, Connection<S, T>),
) -> (Client, UnboundedReceiver<AsyncMessage>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, received) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            // Nobody may be listening.
            drop(sender.send(message));
        }
    });
    (client, received)
}

async fn everything(url: &str) -> Result<(), Error> {
    let options = options(url);
    let (mut client, mut messages) = connect(&options).await?;
    queries(&client).await?;
    transactions(&mut client).await?;
    copies(&client).await?;
    cancels(&client, &options).await?;
    client.batch_execute("listen news; notify news, 'hello'").await?;
    let heard = loop {
        let message = messages.recv().await.expect("the session goes on");
        if let AsyncMessage::Notification(news) = message {
            break news;
        }
    };
    assert_eq!((heard.channel(), heard.payload()), ("news", "hello"));
    startup_options(options).await
}

/// Sent without waiting for one another's answers.
async fn queries(client: &Client) -> Result<(), Error> {
    let answers = (0..30_i32).map(async |n| client.query_one("select $1::int", &[&n]).await);
    let answers = try_join_all(answers).await?.into_iter().map(|row| row.get(0));
    assert_eq!(answers.collect::<Vec<i32>>(), (0..30).collect::<Vec<_>>());
    let sql = "select $1::text, $2::int[], $3::bytea, null::int";
    let types = [Type::TEXT, Type::INT4_ARRAY, Type::BYTEA];
    let statement = client.prepare_typed(sql, &types).await?;
    let row = client.query_one(&statement, &[&"\u{e9}", &[1, 2], &vec![0_u8; 100_000]]).await?;
    assert_eq!((row.get(0), row.get(1)), ("\u{e9}", vec![1, 2]));
    assert_eq!(row.get::<_, Vec<u8>>(2).len(), 100_000);
    assert_eq!(row.get::<_, Option<i32>>(3), None);
    let both = client.simple_query("select 1; select 2").await?;
    let rows = both.iter().filter(|answer| matches!(answer, SimpleQueryMessage::Row(_)));
    assert_eq!(rows.count(), 2);
    // One of a pipeline fails alone.
    let halves =
        join_all([1, 0, 2].map(async |n: i32| client.query_one("select 2 / $1", &[&n]).await));
    let halves: Vec<_> = halves.await.into_iter().map(|row| row.map(|row| row.get(0))).collect();
    assert!(
        matches!(&halves[..], [Ok(2), Err(error), Ok(1)]
        if error.code() == Some(&SqlState::DIVISION_BY_ZERO)),
        "{halves:?}"
    );
    Ok(())
}

async fn transactions(client: &mut Client) -> Result<(), Error> {
    let mut outer = client.transaction().await?;
    outer.batch_execute("create temp table t (n int) on commit drop").await?;
    for ends_well in [true, false] {
        let inner = outer.transaction().await?;
        inner.execute("insert into t select generate_series(1, 250)", &[]).await?;
        if ends_well { inner.commit().await? } else { inner.rollback().await? }
    }
    let portal = outer.bind("select n from t", &[]).await?;
    let mut pages = Vec::new();
    loop {
        match outer.query_portal(&portal, 100).await?.len() {
            0 => break,
            rows => pages.push(rows),
        }
    }
    assert_eq!(pages, [100, 100, 50], "one savepoint was kept, one rolled back");
    outer.commit().await
}

async fn copies(client: &Client) -> Result<(), Error> {
    let lines: String = (0..20_000).map(|n| format!("{n}\tline\n")).collect();
    client.batch_execute("create temp table lines (n int, t text)").await?;
    let sink = client.copy_in("copy lines from stdin").await?;
    futures_util::pin_mut!(sink);
    for chunk in lines.as_bytes().chunks(10_000) {
        sink.send(bytes::Bytes::copy_from_slice(chunk)).await?;
    }
    assert_eq!(sink.finish().await?, 20_000);
    // Dropped half-way, it is taken back.
    let given_up = client.copy_in::<_, bytes::Bytes>("copy lines from stdin").await?;
    drop(given_up);
    let out = client.copy_out("copy lines to stdout").await?;
    let got = out.try_collect::<Vec<_>>().await?.concat();
    assert!(got == lines.as_bytes(), "{} bytes came back", got.len());
    client.batch_execute("drop table lines").await
}

/// One request, once the query runs: an earlier one has no effect, and since this driver does not wait
/// until the server has dealt with a request, a second could meet the next statement.
async fn cancels(client: &Client, options: &(Config, Option<String>)) -> Result<(), Error> {
    let token = client.cancel_token();
    let cancel = async {
        let (watcher, _messages) = connect(options).await?;
        while watcher.query(RUNNING, &[]).await?.is_empty() {}
        match options.1.as_deref() {
            Some(root) => token.cancel_query(encrypted(root)).await,
            None => token.cancel_query(NoTls).await,
        }
    };
    let (slept, cancelled) = tokio::join!(client.batch_execute("select pg_sleep(60)"), cancel);
    assert_eq!(slept.expect_err("it is cancelled").code(), Some(&SqlState::QUERY_CANCELED));
    cancelled
}

async fn startup_options((mut config, root): (Config, Option<String>)) -> Result<(), Error> {
    config.options("-c statement_timeout=100ms").application_name("matrix");
    let (client, _messages) = connect(&(config, root)).await?;
    let slept = client.batch_execute("select pg_sleep(60)").await;
    assert_eq!(slept.expect_err("it takes too long").code(), Some(&SqlState::QUERY_CANCELED));
    let name: String = client.query_one("show application_name", &[]).await?.get(0);
    assert_eq!(name, "matrix");
    Ok(())
}

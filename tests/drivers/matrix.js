// Does with one driver what its users do, and prints `ok`: matrix.js DRIVER URL.
const assert = require("node:assert");
const fs = require("node:fs");

// Both drivers take TLS as an option of theirs, not libpq's parameters.
function split(url) {
  const parsed = new URL(url);
  const ca = parsed.searchParams.get("sslrootcert");
  parsed.search = "";
  return [parsed.toString(), ca ? { ca: fs.readFileSync(ca) } : false];
}

const drivers = {
  async pg(connectionString, ssl) {
    const { Client, Pool } = require("pg");
    const client = new Client({ connectionString, ssl, enableChannelBinding: Boolean(ssl) });
    await client.connect();
    const named = { name: "n", text: "select $1::int as a", values: [7] };
    assert.deepEqual((await client.query(named)).rows, [{ a: 7 }]);
    assert.deepEqual((await client.query(named)).rows, [{ a: 7 }]);
    assert.equal((await client.query("select generate_series(1, 20000)")).rowCount, 20000);
    await client.query("listen news");
    const heard = new Promise((resolve) => client.once("notification", (n) => resolve(n.payload)));
    await client.query("select pg_notify('news', 'hello')");
    assert.equal(await heard, "hello");
    await client.end();
    const pool = new Pool({ connectionString, ssl, max: 3 });
    const answers = await Promise.all([...Array(30).keys()].map((n) => pool.query("select $1::int as n", [n])));
    assert.deepEqual(answers.map((answer) => answer.rows[0].n), [...Array(30).keys()]);
    await pool.end();
  },

  async postgres(url, ssl) {
    const sql = require("postgres")(url, { ssl, max: 2, onnotice: () => {} });
    assert.deepEqual([...(await sql`select ${7}::int as a, ${"x"} as b`)], [{ a: 7, b: "x" }]);
    await sql.begin(async (sql) => {
      await sql`create temp table t (a int, b text) on commit drop`;
      await sql`insert into t ${sql([...Array(1000).keys()].map((a) => ({ a, b: "x" })))}`;
      let rows = 0;
      await sql`select * from t`.cursor(100, (chunk) => void (rows += chunk.length));
      assert.equal(rows, 1000);
    });
    const heard = new Promise((resolve) => sql.listen("news", resolve, () => sql.notify("news", "hello")));
    assert.equal(await heard, "hello");
    const sleep = sql`select pg_sleep(60)`.execute();
    setTimeout(() => sleep.cancel(), 300);
    await assert.rejects(sleep, { code: "57014" });
    await sql.end();
  },
};

const [driver, url] = process.argv.slice(2);
drivers[driver](...split(url)).then(
  () => console.log("ok"),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

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

  async prisma(connectionString, ssl) {
    const { PrismaClient } = require("@prisma/client");
    const { PrismaPg } = require("@prisma/adapter-pg");
    const client = new PrismaClient({ adapter: new PrismaPg({ connectionString, ssl, max: 3 }) });
    const run = (sql) => client.$executeRawUnsafe(sql);
    await run("create table matrix_thing (id int primary key, name text not null)");
    await run("create table matrix_note (id serial primary key, text text not null, thing_id int references matrix_thing)");
    const things = [...Array(100).keys()].map((id) => ({ id, name: `thing ${id}` }));
    assert.equal((await client.thing.createMany({ data: things })).count, 100);
    const notes = { create: [{ text: "one" }, { text: "two" }] };
    await client.thing.create({ data: { id: 100, name: "thing x", notes } });
    const query = { where: { name: { startsWith: "thing" } }, orderBy: { id: "desc" }, take: 2, include: { notes: true } };
    const found = await client.thing.findMany(query);
    assert.deepEqual(found.map((thing) => [thing.id, thing.notes.length]), [[100, 2], [99, 0]]);
    await assert.rejects(client.thing.create({ data: { id: 1, name: "taken" } }), { code: "P2002" });
    const undone = client.$transaction(
      async (transaction) => {
        assert.equal((await transaction.note.deleteMany()).count, 2);
        throw new Error("undo");
      },
      { isolationLevel: "Serializable" },
    );
    await assert.rejects(undone, /undo/);
    const counts = await Promise.all([...Array(20)].map(() => client.note.count()));
    assert.deepEqual(counts, Array(20).fill(2));
    await run("drop table matrix_note, matrix_thing");
    await client.$disconnect();
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

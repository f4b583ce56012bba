// Runs one statement through node-postgres and prints its rows the way psql does unaligned.
const { Client } = require("pg");

async function main([url, sql]) {
  const client = new Client({ connectionString: url });
  await client.connect();
  // A name makes it a prepared statement: the extended protocol, parsed and described on its own.
  const result = await client.query({ name: "query", text: sql, rowMode: "array" });
  for (const row of result.rows) {
    console.log(row.map((value) => value ?? "").join("|"));
  }
  await client.end();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});

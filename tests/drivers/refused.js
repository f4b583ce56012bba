// Connects, expects to be refused, and prints the fields of the refusal as one JSON object.
const { Client } = require("pg");

const client = new Client({ connectionString: process.argv[2] });
client.connect().then(
  () => {
    console.error("connected, though it must not");
    process.exit(1);
  },
  ({ severity, code, message, detail, hint }) => {
    console.log(JSON.stringify({ severity, code, message, detail, hint }));
    process.exit(0);
  },
);

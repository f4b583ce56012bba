// Does with JDBC what its users do, and prints `ok`: java -cp postgresql.jar matrix.java jdbc URL.
import java.io.StringReader;
import java.io.StringWriter;
import java.net.URI;
import java.sql.Array;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.Arrays;
import java.util.Properties;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.largeobject.LargeObject;

class Matrix {
    /** Past this many runs the driver names its statement and asks for binary results. */
    static final int PREPARE_THRESHOLD = 5;

    final String url;
    final Properties login = new Properties();

    Matrix(String libpq) {
        URI parsed = URI.create(libpq);
        String[] user = parsed.getUserInfo().split(":", 2);
        login.setProperty("user", user[0]);
        login.setProperty("password", user[1]);
        String query = parsed.getQuery() == null ? "" : "?" + parsed.getQuery();
        String host = parsed.getHost() + ":" + parsed.getPort();
        url = "jdbc:postgresql://" + host + parsed.getPath() + query;
    }

    public static void main(String[] arguments) throws Exception {
        Matrix matrix = new Matrix(arguments[1]);
        try (Connection c = matrix.connect()) {
            queries(c);
            batches(c);
            cursors(c);
            copies(c);
            largeObjects(c);
            savepoints(c);
            catalog(c);
            cancels(c);
            matrix.notifications(c);
        }
        try (Connection c = matrix.connect("reWriteBatchedInserts=true", "binaryTransfer=true", "autosave=always")) {
            batches(c);
            savepoints(c);
        }
        // The simple protocol, as behind poolers; and what a driver of a cluster asks before it believes a host.
        try (Connection c = matrix.connect("preferQueryMode=simple", "targetServerType=primary")) {
            queries(c);
            batches(c);
            copies(c);
        }
        System.out.println("ok");
    }

    Connection connect(String... settings) throws SQLException {
        Properties all = new Properties();
        all.putAll(login);
        for (String setting : settings) {
            String[] pair = setting.split("=", 2);
            all.setProperty(pair[0], pair[1]);
        }
        return DriverManager.getConnection(url, all);
    }

    static void queries(Connection c) throws SQLException {
        String sql = "select ?::int, ?::text, ?::numeric / 4, ?::timestamptz, ?::int[]";
        try (PreparedStatement s = c.prepareStatement(sql)) {
            for (int n = 0; n < 3 * PREPARE_THRESHOLD; n++) {
                s.setInt(1, n);
                s.setString(2, n % 2 == 0 ? "é" : null);
                s.setBigDecimal(3, new java.math.BigDecimal("1.00"));
                s.setTimestamp(4, new java.sql.Timestamp(n));
                s.setArray(5, c.createArrayOf("int4", new Integer[] {n, null}));
                try (ResultSet rows = s.executeQuery()) {
                    expect(rows.next(), "a row");
                    same(n, rows.getInt(1));
                    same(n % 2 == 0 ? "é" : null, rows.getString(2));
                    same(0, rows.getBigDecimal(3).compareTo(new java.math.BigDecimal("0.25")));
                    same((long) n, rows.getTimestamp(4).getTime());
                    Array array = rows.getArray(5);
                    same("[" + n + ", null]", Arrays.toString((Object[]) array.getArray()));
                    expect(!rows.next(), "one row");
                }
            }
        }
        try (Statement s = c.createStatement()) {
            expect(s.execute("select 1; select 2"), "rows");
            expect(s.getMoreResults(), "rows of the second statement");
            s.getResultSet().next();
            same(2, s.getResultSet().getInt(1));
        }
        failure("42P01", () -> c.createStatement().execute("select * from no_such_table"));
        failure("22012", () -> one(c, "select 1 / 0"));
    }

    static void batches(Connection c) throws SQLException {
        try (Statement s = c.createStatement()) {
            s.execute("create temp table b (id serial, n int check (n >= 0), t text)");
        }
        try (PreparedStatement s = c.prepareStatement("insert into b (n, t) values (?, ?)")) {
            for (int n = 0; n < 1000; n++) {
                s.setInt(1, n);
                s.setString(2, "line " + n);
                s.addBatch();
            }
            same(1000, s.executeBatch().length);
            s.setInt(1, -1);
            s.setString(2, "refused");
            s.addBatch();
            failure("23514", s::executeBatch);
        }
        same("1000", one(c, "select count(*) from b"));
        String insert = "insert into b (n, t) values (7, 'seven')";
        try (PreparedStatement s = c.prepareStatement(insert, Statement.RETURN_GENERATED_KEYS)) {
            s.executeUpdate();
            expect(s.getGeneratedKeys().next(), "a generated key");
        }
        try (Statement s = c.createStatement()) {
            s.execute("drop table b");
        }
    }

    static void cursors(Connection c) throws SQLException {
        c.setAutoCommit(false);
        String sql = "select g, repeat('x', 100) from generate_series(1, 10000) g";
        try (PreparedStatement s = c.prepareStatement(sql)) {
            s.setFetchSize(37);
            long sum = 0;
            try (ResultSet rows = s.executeQuery()) {
                while (rows.next()) {
                    sum += rows.getInt(1);
                }
            }
            same(50005000L, sum);
        }
        try (Statement s = c.createStatement()) {
            s.setFetchSize(10);
            // Closed before its end.
            try (ResultSet rows = s.executeQuery(sql)) {
                expect(rows.next(), "a row");
            }
        }
        c.commit();
        c.setAutoCommit(true);
        int sensitivity = ResultSet.TYPE_SCROLL_INSENSITIVE;
        try (Statement s = c.createStatement(sensitivity, ResultSet.CONCUR_READ_ONLY)) {
            ResultSet rows = s.executeQuery("select generate_series(1, 10)");
            expect(rows.last(), "a last row");
            same(10, rows.getInt(1));
            expect(rows.absolute(3), "a third row");
            same(3, rows.getInt(1));
        }
    }

    static void copies(Connection c) throws Exception {
        try (Statement s = c.createStatement()) {
            s.execute("create temp table lines (n int, t text)");
            StringBuilder lines = new StringBuilder();
            for (int n = 0; n < 20000; n++) {
                lines.append(n).append("\tline\n");
            }
            var copy = c.unwrap(PGConnection.class).getCopyAPI();
            same(20000L, copy.copyIn("copy lines from stdin", new StringReader(lines.toString())));
            StringWriter out = new StringWriter();
            same(20000L, copy.copyOut("copy (select * from lines order by n) to stdout", out));
            same(lines.toString(), out.toString());
            failure("22P02", () -> copy.copyIn("copy lines from stdin", new StringReader("x\ty\n")));
            // Abandoned by the client.
            var abandoned = copy.copyIn("copy lines from stdin");
            abandoned.writeToCopy(new byte[] {'1', '\t'}, 0, 2);
            abandoned.cancelCopy();
            s.execute("drop table lines");
        }
    }

    /** Through the protocol's own function calls, which few other drivers use. */
    static void largeObjects(Connection c) throws SQLException {
        c.setAutoCommit(false);
        var objects = c.unwrap(PGConnection.class).getLargeObjectAPI();
        long oid = objects.createLO();
        byte[] written = new byte[300_000];
        Arrays.fill(written, (byte) 'x');
        LargeObject object = objects.open(oid);
        object.write(written);
        object.seek(0);
        expect(Arrays.equals(written, object.read(written.length)), "what was written");
        object.close();
        objects.delete(oid);
        c.commit();
        c.setAutoCommit(true);
    }

    static void savepoints(Connection c) throws SQLException {
        c.setAutoCommit(false);
        c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        try (Statement s = c.createStatement()) {
            s.execute("create temp table kept (n int) on commit drop");
            s.execute("insert into kept values (1)");
            Savepoint before = c.setSavepoint();
            failure("22012", () -> s.execute("select 1 / 0"));
            c.rollback(before);
            same("1", one(c, "select count(*) from kept"));
        }
        c.rollback();
        c.setAutoCommit(true);
        c.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
    }

    static void catalog(Connection c) throws SQLException {
        try (ResultSet tables = c.getMetaData().getTables(null, "public", "item", new String[] {"TABLE"})) {
            expect(tables.next(), "the table of the source");
        }
        try (ResultSet keys = c.getMetaData().getPrimaryKeys(null, "public", "item")) {
            expect(keys.next(), "its primary key");
            same("id", keys.getString("COLUMN_NAME"));
        }
        expect(c.isValid(10), "a valid connection");
    }

    static void cancels(Connection c) throws Exception {
        var timer = Executors.newSingleThreadScheduledExecutor();
        try (Statement s = c.createStatement()) {
            var sent = timer.schedule(() -> {
                s.cancel();
                return null;
            }, 300, TimeUnit.MILLISECONDS);
            failure("57014", () -> s.execute("select pg_sleep(60)"));
            sent.get();
        } finally {
            timer.shutdown();
        }
        same("1", one(c, "select 1"));
    }

    void notifications(Connection c) throws SQLException {
        try (Statement s = c.createStatement(); Connection other = connect()) {
            s.execute("listen news");
            other.createStatement().execute("notify news, 'hello'");
            PGNotification[] heard = c.unwrap(PGConnection.class).getNotifications(10_000);
            same("hello", heard[0].getParameter());
        }
    }

    static String one(Connection c, String sql) throws SQLException {
        try (Statement s = c.createStatement(); ResultSet rows = s.executeQuery(sql)) {
            rows.next();
            return rows.getString(1);
        }
    }

    interface Step {
        void run() throws Exception;
    }

    static void failure(String state, Step step) {
        try {
            step.run();
        } catch (SQLException error) {
            same(state, error.getSQLState());
            return;
        } catch (Exception error) {
            throw new AssertionError(error);
        }
        throw new AssertionError("no failure " + state);
    }

    static void same(Object wanted, Object got) {
        expect(wanted == null ? got == null : wanted.equals(got), wanted + ", not " + got);
    }

    static void expect(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError("expected " + what);
        }
    }
}

"""Does with one driver what its users do, and prints `ok`: matrix.py DRIVER URL.

Each driver has a function; all leave the branch as they found it, so that runs can follow each
other. A wrong answer is a traceback and exit code 1.
"""

import asyncio
import io
import ssl
import sys
import urllib.parse

QUERIES_MIXED = "select g, 'é' || g, g::numeric / 3 from generate_series(1, 1000) g"


def driver_psycopg(url):
    import psycopg

    with psycopg.connect(url, autocommit=True) as c:
        assert c.execute("select 1; select 2").fetchone() == (1,)
        assert c.execute("select %s::text, %s::int", ("x", 7), binary=True).fetchone() == ("x", 7)
        with c.pipeline():
            answers = [c.execute("select %s::int", (n,)) for n in range(50)]
        assert [a.fetchone()[0] for a in answers] == list(range(50))
        c.execute("create temp table t (a int, b text)")
        with c.cursor().copy("copy t from stdin") as copy:
            for n in range(10000):
                copy.write_row((n, "line"))
        with c.cursor().copy("copy t to stdout") as copy:
            assert sum(1 for _ in copy.rows()) == 10000
        with c.transaction(), c.cursor("named") as cursor:
            cursor.execute(QUERIES_MIXED)
            assert len(cursor.fetchmany(10)) == 10 and len(cursor.fetchall()) == 990
        c.execute("listen news")
        with psycopg.connect(url, autocommit=True) as other:
            other.execute("select pg_notify('news', 'hello')")
        assert next(c.notifies(timeout=10)).payload == "hello"
        with c.transaction():
            (number,) = c.execute("select lo_from_bytea(0, %s)", (b"x" * 100000,)).fetchone()
            (data,) = c.execute("select lo_get(%s)", (number,)).fetchone()
            assert bytes(data) == b"x" * 100000
            c.execute("select lo_unlink(%s)", (number,))
        cancelled(c.execute, c.cancel, psycopg.errors.QueryCanceled)


def cancelled(execute, cancel, error):
    import threading

    timer = threading.Timer(0.3, cancel)
    timer.start()
    try:
        execute("select pg_sleep(60)")
        raise AssertionError("not cancelled")
    except error:
        timer.join()


def driver_psycopg2(url):
    import psycopg2

    c = psycopg2.connect(url)
    with c, c.cursor() as cursor:
        cursor.execute("select %s, %s", ("x", 7))
        assert cursor.fetchone() == ("x", 7)
        cursor.execute("create temp table t (a int, b text)")
        cursor.copy_from(io.StringIO("1\tone\n2\ttwo\n"), "t")
        out = io.StringIO()
        cursor.copy_to(out, "t")
        assert out.getvalue() == "1\tone\n2\ttwo\n"
        large = c.lobject(0, "wb")
        large.write(b"abc" * 1000)
        large.close()
        assert c.lobject(large.oid, "rb").read() == b"abc" * 1000
        c.lobject(large.oid).unlink()
    with c, c.cursor("named") as cursor:
        cursor.execute(QUERIES_MIXED)
        assert len(cursor.fetchmany(10)) == 10
    with c.cursor() as cursor:
        cancelled(cursor.execute, c.cancel, psycopg2.errors.QueryCanceled)
    c.rollback()
    c.set_session(autocommit=True)
    with c.cursor() as cursor:
        cursor.execute("listen news; notify news, 'hello'")
        c.poll()
        assert c.notifies.pop().payload == "hello"
    c.close()


def driver_asyncpg(url):
    asyncio.run(with_asyncpg(url))


async def with_asyncpg(url):
    import asyncpg

    c = await asyncpg.connect(url)
    assert await c.fetchval("select $1::int + $2::int", 3, 4) == 7
    assert len(await c.fetch(QUERIES_MIXED)) == 1000
    await c.execute("create temp table t (a int, b text)")
    await c.copy_records_to_table("t", records=[(n, str(n)) for n in range(5000)])
    out = io.BytesIO()
    await c.copy_from_table("t", output=out)
    assert out.getvalue().count(b"\n") == 5000
    async with c.transaction():
        rows = [row async for row in c.cursor("select * from t order by a", prefetch=100)]
        assert len(rows) == 5000
    heard = asyncio.Queue()
    await c.add_listener("news", lambda *call: heard.put_nowait(call[3]))
    await c.execute("notify news, 'hello'")
    assert await asyncio.wait_for(heard.get(), 10) == "hello"
    try:
        await asyncio.wait_for(c.execute("select pg_sleep(60)"), 0.3)
        raise AssertionError("not cancelled")
    except asyncio.TimeoutError:
        assert await c.fetchval("select 1") == 1
    await c.close()
    pool = await asyncpg.create_pool(url, min_size=3, max_size=3)
    answers = await asyncio.gather(*(pool.fetchval("select $1::int", n) for n in range(30)))
    assert answers == list(range(30))
    await pool.close()


def driver_pg8000(url):
    import pg8000.dbapi

    parts = urllib.parse.urlsplit(url)
    options = dict(urllib.parse.parse_qsl(parts.query))
    context = None
    if options.get("sslmode", "disable") != "disable":
        context = ssl.create_default_context(cafile=options["sslrootcert"])
    c = pg8000.dbapi.connect(
        urllib.parse.unquote(parts.username),
        host=parts.hostname,
        port=parts.port,
        password=parts.password,
        database=parts.path[1:],
        ssl_context=context,
    )
    cursor = c.cursor()
    cursor.execute("select cast(%s as int), cast(%s as text)", (7, "x"))
    assert list(cursor.fetchone()) == [7, "x"]
    cursor.execute("create temp table t (a int, b text)")
    cursor.execute("copy t from stdin", stream=io.BytesIO(b"1\tone\n2\ttwo\n"))
    out = io.BytesIO()
    cursor.execute("copy t to stdout", stream=out)
    assert out.getvalue() == b"1\tone\n2\ttwo\n"
    c.rollback()
    c.close()


def driver_sqlalchemy(url):
    import sqlalchemy as sa
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

    class Base(DeclarativeBase):
        pass

    class Thing(Base):
        __tablename__ = "matrix_thing"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    for dialect in ("psycopg", "psycopg2"):
        engine = sa.create_engine(url.replace("postgresql:", f"postgresql+{dialect}:"))
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add_all([Thing(name=f"n{n}") for n in range(100)])
            session.commit()
            assert session.scalar(sa.select(sa.func.count()).select_from(Thing)) == 100
        assert "matrix_thing" in sa.inspect(engine).get_table_names()
        Base.metadata.drop_all(engine)
        engine.dispose()


def driver_alembic(url):
    import sqlalchemy as sa
    from alembic.autogenerate import compare_metadata, produce_migrations
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    wanted = sa.MetaData()
    columns = [sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("name", sa.String(40))]
    sa.Table("matrix_step", wanted, *columns, sa.UniqueConstraint("name"))
    ours = {"include_name": lambda name, kind, _: kind != "table" or name.startswith("matrix_")}
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts=ours)
        assert context.get_current_revision() is None
        for target in (wanted, sa.MetaData()):
            steps = produce_migrations(context, target).upgrade_ops.ops
            assert len(steps) == 1
            Operations(context).invoke(steps[0])
            assert compare_metadata(context, target) == []
    engine.dispose()


def driver_django(url):
    import django
    from django.conf import settings

    parts = urllib.parse.urlsplit(url)
    database = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": parts.path[1:],
        "USER": urllib.parse.unquote(parts.username),
        "PASSWORD": parts.password,
        "HOST": parts.hostname,
        "PORT": parts.port,
        "OPTIONS": dict(urllib.parse.parse_qsl(parts.query)),
    }
    settings.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
        USE_TZ=True,
    )
    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.db import connection

    call_command("migrate", verbosity=0)
    User.objects.create_user("ada", password="x")
    assert User.objects.filter(username__startswith="a").count() == 1
    assert len(list(User.objects.iterator(chunk_size=1))) == 1
    call_command("migrate", "auth", "zero", verbosity=0)
    call_command("migrate", "contenttypes", "zero", verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("drop table django_migrations")


globals()["driver_" + sys.argv[1]](sys.argv[2])
print("ok")

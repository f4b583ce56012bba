"""Starts a long query, cancels it with the protocol's CancelRequest, and prints its SQLSTATE."""

import sys
import threading

import psycopg

RUNNING = "select true from pg_stat_activity where pid = %s and query = %s and state = 'active'"
QUERY = "select pg_sleep(60)"

url = sys.argv[1]
with (
    psycopg.connect(url, autocommit=True) as connection,
    psycopg.connect(url, autocommit=True) as watcher,
):
    # Asked by SQL: the pid of the session's cancel key may be one that a proxy made up.
    (pid,) = connection.execute("select pg_backend_pid()").fetchone()

    def cancel_once_running():
        while not watcher.execute(RUNNING, (pid, QUERY)).fetchone():
            pass
        connection.cancel()

    canceller = threading.Thread(target=cancel_once_running)
    canceller.start()
    try:
        connection.execute(QUERY)
    except psycopg.Error as error:
        print(error.sqlstate)
    canceller.join()

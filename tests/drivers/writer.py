"""Inserts rows 1, 2, 3, ... one transaction each, and prints an id once its commit is known.

Ends when the connection breaks: that is how the test ends it.
"""

import itertools
import sys

import psycopg

url, table = sys.argv[1:]
with psycopg.connect(url, autocommit=True) as connection:
    try:
        for row in itertools.count(1):
            connection.execute(f"insert into {table} (id) values (%s)", (row,))
            print(row, flush=True)
    except psycopg.OperationalError:
        sys.exit(0)

"""Runs one statement through psycopg and prints its rows the way psql does unaligned."""

import sys

import psycopg

url, sql = sys.argv[1:]
with psycopg.connect(url, autocommit=True) as connection:
    # A parameter-free prepared statement takes the extended protocol, which psql does not.
    cursor = connection.execute(sql, prepare=True)
    if cursor.description:
        for row in cursor:
            print("|".join("" if value is None else str(value) for value in row))

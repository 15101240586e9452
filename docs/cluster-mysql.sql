-- Prepares a MySQL (8.0, 8.4) or MariaDB (10.11) server to hold tenant databases.
-- Run once for each server as its master user:
--   mysql --host=… --user=… --password --ssl-mode=VERIFY_IDENTITY --ssl-ca=… < docs/cluster-mysql.sql
-- then give the platform's user a password and let it log in; a password has 41 characters at most:
--   ALTER USER provisioner@'%' IDENTIFIED BY '…' ACCOUNT UNLOCK;
--
-- `nm` below is the parameter ResourcePrefix of the deployment, which the names of all its databases
-- begin with. Where partial_revokes is ON (MySQL), a pattern is a name like any other: there grant on
-- *.* instead, and REVOKE it ON mysql.*.

CREATE USER IF NOT EXISTS provisioner@'%' REQUIRE SSL PASSWORD EXPIRE NEVER ACCOUNT LOCK;

-- CREATE USER: makes, changes and drops the tenants' users. It is a right over every user that has no
-- SYSTEM_USER (MySQL): keep other applications' users off this server.
-- PROCESS: tells whose transaction keeps a database from being dropped.
GRANT CREATE USER, PROCESS ON *.* TO provisioner@'%';

-- Which users there are, and what is granted to them; of MariaDB, the text of routines for snapshots.
-- On MySQL snapshots need this too:  GRANT SHOW_ROUTINE ON *.* TO provisioner@'%';
-- or SELECT ON *.*, where the master user, as RDS's, has no SHOW_ROUTINE to give.
GRANT SELECT ON mysql.* TO provisioner@'%';

-- The platform's own records, which no tenant reads.
GRANT SELECT, INSERT, DELETE, CREATE ON provisioner.* TO provisioner@'%';

-- What a tenant gets in its own database: the platform's user can grant only what it has.
GRANT
    ALTER, ALTER ROUTINE, CREATE, CREATE ROUTINE, CREATE TEMPORARY TABLES, CREATE VIEW, DELETE, DROP,
    EVENT, EXECUTE, INDEX, INSERT, LOCK TABLES, REFERENCES, SELECT, SHOW VIEW, TRIGGER, UPDATE
    ON `nm\_%`.* TO provisioner@'%' WITH GRANT OPTION;

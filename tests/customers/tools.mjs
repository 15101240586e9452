// Runs one of a customer's tools on DATABASE_URL, as its documentation says, and prints what it made.
// Usage: node tools.mjs TOOL FOLDER, where FOLDER is an empty one for its files.
import { mkdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

// The packages are installed outside this folder.
const require = createRequire(path.join(process.env.NODE_TOOLS, 'package.json'));
const load = (name) => import(require.resolve(name));

const url = process.env.DATABASE_URL;
const [tool, folder] = process.argv.slice(2);

function writeDrizzleMigrations() {
  mkdirSync(path.join(folder, 'meta'));
  writeFileSync(path.join(folder, '0000_notes.sql'), 'CREATE TABLE notes (id serial PRIMARY KEY, text text);');
  const entry = { idx: 0, version: '7', when: 1, tag: '0000_notes', breakpoints: true };
  writeFileSync(
    path.join(folder, 'meta', '_journal.json'),
    JSON.stringify({ version: '7', dialect: 'postgresql', entries: [entry] }),
  );
}

async function migrateWithDrizzle(options) {
  const { drizzle } = await load('drizzle-orm/node-postgres');
  const { migrate } = await load('drizzle-orm/node-postgres/migrator');
  const { default: pg } = await load('pg');
  writeDrizzleMigrations();
  const pool = new pg.Pool({ connectionString: url });
  try {
    for (let time = 0; time < 2; time += 1) {
      await migrate(drizzle(pool), { migrationsFolder: folder, ...options });
    }
  } finally {
    await pool.end();
  }
}

async function migrateWithNodePgMigrate(options) {
  const { runner } = await load('node-pg-migrate');
  writeFileSync(path.join(folder, '1_notes.sql'), 'CREATE TABLE notes (id serial PRIMARY KEY, text text);');
  for (let time = 0; time < 2; time += 1) {
    await runner({
      databaseUrl: url, dir: folder, direction: 'up', migrationsTable: 'pgmigrations', log: () => {}, ...options,
    });
  }
}

async function useQueueOfPgBoss(options) {
  const { default: PgBoss } = await load('pg-boss');
  const boss = new PgBoss({ connectionString: url, ...options });
  const failures = [];
  boss.on('error', (error) => failures.push(error));
  await boss.start();
  try {
    await boss.createQueue('mail');
    await boss.send('mail', { to: 'ada' });
    const [job] = await boss.fetch('mail');
    await boss.complete('mail', job.id);
  } finally {
    await boss.stop({ graceful: false });
  }
  if (failures.length > 0) throw failures[0];
}

const tools = {
  'drizzle': () => migrateWithDrizzle({}),
  'drizzle in app': () => migrateWithDrizzle({ migrationsSchema: 'app' }),
  'node-pg-migrate': () => migrateWithNodePgMigrate({}),
  'node-pg-migrate createSchema app': () =>
    migrateWithNodePgMigrate({ schema: 'app', migrationsSchema: 'app', createSchema: true, createMigrationsSchema: true }),
  'node-pg-migrate createSchema shop': () =>
    migrateWithNodePgMigrate({ schema: 'shop', migrationsSchema: 'shop', createSchema: true, createMigrationsSchema: true }),
  'pg-boss': () => useQueueOfPgBoss({}),
  'pg-boss in app': () => useQueueOfPgBoss({ schema: 'app', createSchema: false }),
  'graphile-worker': async () => {
    const { runMigrations, quickAddJob, runOnce } = await load('graphile-worker');
    await runMigrations({ connectionString: url });
    await quickAddJob({ connectionString: url }, 'mail', { to: 'ada' });
    let done = 0;
    await runOnce({ connectionString: url, noHandleSignals: true, taskList: { mail: () => { done += 1; } } });
    if (done !== 1) throw new Error(`the job ran ${done} times`);
  },
  'knex': async () => {
    const { default: makeKnex } = await load('knex');
    const knex = makeKnex({ client: 'pg', connection: url });
    const migrationSource = {
      getMigrations: async () => ['notes'],
      getMigrationName: (name) => name,
      getMigration: async () => ({
        up: async (db) => {
          await db.schema.createSchemaIfNotExists('shop');
          await db.raw('CREATE EXTENSION IF NOT EXISTS citext');
          await db.schema.createTable('notes', (table) => { table.increments(); table.specificType('text', 'citext'); });
          await db.schema.withSchema('shop').createTable('orders', (table) => table.increments());
        },
        down: (db) => db.schema.dropTable('notes'),
      }),
    };
    try {
      await knex.migrate.latest({ migrationSource });
      await knex.migrate.latest({ migrationSource });
      await knex.transaction(async (trx) => {
        await trx.raw('CREATE TEMPORARY TABLE scratch (id int) ON COMMIT DROP');
        await trx('notes').insert({ text: 'Hello' });
      });
      const [{ count }] = await knex('notes').where({ text: 'HELLO' }).count();
      if (count !== '1') throw new Error(`citext found ${count} rows`);
    } finally {
      await knex.destroy();
    }
  },
  'sequelize': async () => {
    const { Sequelize, DataTypes } = await load('sequelize').then((loaded) => loaded.default ?? loaded);
    const sequelize = new Sequelize(url, { logging: false });
    try {
      await sequelize.createSchema('shop');
      sequelize.define('note', { text: DataTypes.STRING });
      sequelize.define('order', { state: DataTypes.ENUM('open', 'paid') }, { schema: 'shop' });
      await sequelize.sync({ alter: true });
      await sequelize.sync({ alter: true });
    } finally {
      await sequelize.close();
    }
  },
  'typeorm': async () => {
    await load('reflect-metadata');
    const { DataSource, EntitySchema } = await load('typeorm').then((loaded) => loaded.default ?? loaded);
    const note = new EntitySchema({
      name: 'note',
      columns: { id: { type: Number, primary: true, generated: true }, tags: { type: 'text', array: true } },
    });
    for (let time = 0; time < 2; time += 1) {
      const source = new DataSource({ type: 'postgres', url, entities: [note], synchronize: true });
      await source.initialize();
      await source.destroy();
    }
  },
  'pg': async () => {
    const { default: pg } = await load('pg');
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    await client.end();
  },
  // What Prisma's `migrate reset` sends where it may not drop the database.
  'a reset of the schema': async () => {
    const { default: pg } = await load('pg');
    const client = new pg.Client({ connectionString: url });
    await client.connect();
    try {
      await client.query('CREATE TABLE notes (id int)');
      await client.query('DROP SCHEMA app CASCADE');
      await client.query('CREATE SCHEMA app');
      await client.query('CREATE TABLE notes (id int)');
    } finally {
      await client.end();
    }
  },
};

try {
  await tools[tool]();
  process.exit(0);
} catch (error) {
  const cause = error.cause ? ` (${error.cause.code ?? ''} ${error.cause.message})` : '';
  console.error(`${tool}: ${error.code ?? ''} ${String(error.message ?? error).split('\n')[0]}${cause}`);
  process.exit(1);
}

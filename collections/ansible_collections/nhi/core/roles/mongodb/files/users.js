// Run by mongosh: reads a wish as JSON from standard input and makes the users that are missing or other ones.
// Prints one JSON object: what changed, or why it can not be done. It never prints a password.
(() => {
  const [NOT_AUTHORIZED, LOGIN_FAILED] = [13, 18];
  const wish = JSON.parse(require("fs").readFileSync(0, "utf8"));
  const server = `mongodb://127.0.0.1:${wish.port}/`;
  const changed = [];

  // A connection of its own for each login: one that has logged in stays so.
  const login = (database, user) => {
    try {
      const found = new Mongo(server).getDB(database);
      return found.auth(user.name, user.password).ok === 1 ? found : null;
    } catch (error) {
      if (error.code === LOGIN_FAILED) {
        return null;
      }
      throw error;
    }
  };
  const make = (database, user, roles) => {
    changed.push(`${database.getName()}.${user.name}`);
    if (!wish.dry_run) {
      database.createUser({ user: user.name, pwd: user.password, roles });
    }
  };

  let admin = login("admin", wish.admin);
  if (admin === null) {
    // A server without users lets one be made from loopback, and says no when it has any.
    try {
      make(new Mongo(server).getDB("admin"), wish.admin, ["root"]);
    } catch (error) {
      if (error.code !== NOT_AUTHORIZED) {
        throw error;
      }
      print(JSON.stringify({ refused: `the server has users, and the password of ${wish.admin.name} is another one` }));
      return;
    }
    admin = wish.dry_run ? null : login("admin", wish.admin);
  }
  for (const user of wish.users) {
    const roles = (user.roles || ["readWrite"]).map((role) => ({ role, db: user.database }));
    const names = (list) => list.map((entry) => `${entry.db}.${entry.role}`).sort().join();
    const database = admin && admin.getSiblingDB(user.database);
    const held = database && database.getUser(user.name);
    if (!held) {
      make(database || { getName: () => user.database }, user, roles);
      continue;
    }
    const update = {};
    if (names(held.roles) !== names(roles)) {
      update.roles = roles;
    }
    if (login(user.database, user) === null) {
      update.pwd = user.password;
    }
    if (Object.keys(update).length > 0) {
      changed.push(`${user.database}.${user.name}`);
      if (!wish.dry_run) {
        database.updateUser(user.name, update);
      }
    }
  }
  print(JSON.stringify({ changed }));
})();

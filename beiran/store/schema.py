"""The tables and views, and the migrations from one release to the next.

Operators read them too, in ``sqlite-utils`` or Datasette. Each digest and UUID is stored once, as
text; the large tables refer to them by integer ids (1,000 nodes with 500 layers each fit into a few
megabytes), and the views put the text back.
"""

from typing import Final

from sqlite_utils import Database, Migrations

MIGRATIONS: Final = Migrations("beiran")
"""Append only: a migration that a release has applied never changes."""

MIGRATION_NAMES: Final = ("m001_first_tables", "m002_tags", "m003_names")
"""The migrations of this release. A file with any other comes from a newer release."""

_TABLES: Final = (
    # One row, with id 1: what this node must remember about itself.
    """
    CREATE TABLE self (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        uuid TEXT NOT NULL,
        cluster TEXT NOT NULL,
        generation INTEGER NOT NULL
    )
    """,
    # first_seen_at is null while only the node's holdings are known, and not the member.
    """
    CREATE TABLE nodes (
        id INTEGER PRIMARY KEY,
        uuid TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        address TEXT NOT NULL,
        port INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('alive', 'suspect', 'down', 'left')),
        generation INTEGER NOT NULL,
        incarnation INTEGER NOT NULL,
        version TEXT,
        engine TEXT,
        first_seen_at TEXT,
        last_seen_at TEXT,
        holdings_version INTEGER NOT NULL DEFAULT 0
    )
    """,
    # The columns after digest are null until the image is described.
    """
    CREATE TABLE images (
        id INTEGER PRIMARY KEY,
        digest TEXT NOT NULL UNIQUE,
        os TEXT,
        architecture TEXT,
        created_at TEXT,
        size_bytes INTEGER
    )
    """,
    """
    CREATE TABLE layers (
        id INTEGER PRIMARY KEY,
        digest TEXT NOT NULL UNIQUE,
        size_bytes INTEGER NOT NULL
    )
    """,
    # Position 0 is the base. A layer may occur more than once in an image. size_bytes is from this
    # image's description: builders may count the files of the same layer differently.
    """
    CREATE TABLE image_layers (
        image INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        layer INTEGER NOT NULL REFERENCES layers (id),
        size_bytes INTEGER NOT NULL,
        PRIMARY KEY (image, position)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX image_layers_by_layer ON image_layers (layer, image)",
    # tags and digests are JSON arrays of text.
    """
    CREATE TABLE holdings (
        image INTEGER NOT NULL REFERENCES images (id),
        node INTEGER NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
        tags TEXT NOT NULL,
        digests TEXT NOT NULL,
        PRIMARY KEY (image, node)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX holdings_by_node ON holdings (node, image)",
)

_VIEWS: Final = {
    "image_holdings": """
        SELECT images.digest AS image, holdings.tags, holdings.digests,
            nodes.uuid AS node, nodes.name AS node_name, nodes.state AS node_state
        FROM holdings
        JOIN images ON images.id = holdings.image
        JOIN nodes ON nodes.id = holdings.node
    """,
    "layer_holdings": """
        SELECT DISTINCT layers.digest AS layer, layers.size_bytes,
            nodes.uuid AS node, nodes.name AS node_name, nodes.state AS node_state
        FROM holdings
        JOIN image_layers ON image_layers.image = holdings.image
        JOIN layers ON layers.id = image_layers.layer
        JOIN nodes ON nodes.id = holdings.node
    """,
    "image_list": """
        SELECT images.digest AS image, images.os, images.architecture, images.created_at,
            images.size_bytes,
            json_group_array(DISTINCT 'beiran+uuid://' || nodes.uuid) AS available_at
        FROM images
        JOIN holdings ON holdings.image = images.id
        JOIN nodes ON nodes.id = holdings.node AND nodes.state IN ('alive', 'suspect')
        GROUP BY images.id
    """,
    "layer_list": """
        SELECT layers.digest AS layer, layers.size_bytes,
            json_group_array(DISTINCT images.digest) AS images,
            json_group_array(DISTINCT 'beiran+uuid://' || nodes.uuid) AS available_at
        FROM layers
        JOIN image_layers ON image_layers.layer = layers.id
        JOIN images ON images.id = image_layers.image
        JOIN holdings ON holdings.image = image_layers.image
        JOIN nodes ON nodes.id = holdings.node AND nodes.state IN ('alive', 'suspect')
        GROUP BY layers.id
    """,
}


# How an origin last resolved a tag, and when: resolved_at is RFC 3339 in UTC.
_TAGS: Final = """
    CREATE TABLE tags (
        reference TEXT PRIMARY KEY,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        resolved_at TEXT NOT NULL
    ) WITHOUT ROWID
"""


# Which node holds which image under a name (a tag or ``NAME@sha256:…``): an index of the arrays in
# holdings. reads.py finds names by it, and the triggers below keep it: no Python code writes it. A
# name without a holding is deleted.
_NAMES: Final = (
    "CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    """
    CREATE TABLE holding_names (
        name INTEGER NOT NULL REFERENCES names (id),
        image INTEGER NOT NULL,
        node INTEGER NOT NULL,
        PRIMARY KEY (name, image, node)
    ) WITHOUT ROWID
    """,
    """
    INSERT INTO names (name)
    SELECT value FROM holdings, json_each(holdings.tags)
    UNION SELECT value FROM holdings, json_each(holdings.digests)
    """,
    """
    INSERT INTO holding_names
    SELECT names.id, image, node FROM holdings, json_each(holdings.tags)
    JOIN names ON names.name = value
    UNION SELECT names.id, image, node FROM holdings, json_each(holdings.digests)
    JOIN names ON names.name = value
    """,
)

_NOTE_NAMES: Final = """
    INSERT OR IGNORE INTO names (name)
    SELECT value FROM json_each(NEW.tags) UNION SELECT value FROM json_each(NEW.digests);
    INSERT OR IGNORE INTO holding_names
    SELECT names.id, NEW.image, NEW.node FROM names WHERE name IN
    (SELECT value FROM json_each(NEW.tags) UNION SELECT value FROM json_each(NEW.digests));
"""
_FORGET_NAMES: Final = """
    DELETE FROM holding_names WHERE image = OLD.image AND node = OLD.node AND name IN
    (SELECT names.id FROM names WHERE names.name IN
    (SELECT value FROM json_each(OLD.tags) UNION SELECT value FROM json_each(OLD.digests)));
"""
_NAME_TRIGGERS: Final = (
    f"CREATE TRIGGER names_of_added AFTER INSERT ON holdings BEGIN {_NOTE_NAMES} END",
    f"CREATE TRIGGER names_of_removed AFTER DELETE ON holdings BEGIN {_FORGET_NAMES} END",
    f"""
    CREATE TRIGGER names_of_changed AFTER UPDATE ON holdings
    BEGIN {_FORGET_NAMES} {_NOTE_NAMES} END
    """,
    """
    CREATE TRIGGER names_unused AFTER DELETE ON holding_names
    WHEN NOT EXISTS (SELECT 1 FROM holding_names WHERE name = OLD.name)
    BEGIN DELETE FROM names WHERE id = OLD.name; END
    """,
)


@MIGRATIONS()
def m001_first_tables(db: Database) -> None:
    """The tables and views of 0.1.0."""
    for statement in _TABLES:
        db.execute(statement)
    for name, select in _VIEWS.items():
        db.create_view(name, select)


@MIGRATIONS()
def m002_tags(db: Database) -> None:
    """Tag resolutions, for pulls while the origin does not answer."""
    db.execute(_TAGS)
    db.execute("CREATE INDEX tags_by_age ON tags (resolved_at)")


@MIGRATIONS()
def m003_names(db: Database) -> None:
    """Holdings by name, found without a scan of all holdings."""
    for statement in (*_NAMES, *_NAME_TRIGGERS):
        db.execute(statement)

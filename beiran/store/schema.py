"""The tables, and the steps from one release's to the next's.

They are meant to be read by people too, in ``sqlite-utils`` or Datasette: digests and UUIDs are
text, each once; the large tables join them by integer ids (1,000 nodes with 500 layers each fit
into a few megabytes), and the views put the text back.
"""

from typing import Final

from sqlite_utils import Database, Migrations

MIGRATIONS: Final = Migrations("beiran")
"""Append only: what a release has applied is never edited."""

MIGRATION_NAMES: Final = ("m001_first_tables", "m002_tags")
"""Those of this release: a file with others comes from a newer one."""

_TABLES: Final = (
    # The row with id 1 is all there is: what this node must remember of itself.
    """
    CREATE TABLE self (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        uuid TEXT NOT NULL,
        cluster TEXT NOT NULL,
        generation INTEGER NOT NULL
    )
    """,
    # first_seen_at is null while only a node's holdings are known, not yet the member.
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
    # size_bytes and what follows is null until the image is described.
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
    # position 0 is the base; a layer may come more than once in an image. size_bytes is as this
    # image's description says: builders may count the same layer's files differently.
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


# What a tag last meant at its origin, and when that was; resolved_at is RFC 3339 in UTC.
_TAGS: Final = """
    CREATE TABLE tags (
        reference TEXT PRIMARY KEY,
        digest TEXT NOT NULL,
        media_type TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        resolved_at TEXT NOT NULL
    ) WITHOUT ROWID
"""


@MIGRATIONS()
def m001_first_tables(db: Database) -> None:
    """Everything that 0.1.0 keeps."""
    for statement in _TABLES:
        db.execute(statement)
    for name, select in _VIEWS.items():
        db.create_view(name, select)


@MIGRATIONS()
def m002_tags(db: Database) -> None:
    """What tags meant, for when their origin does not answer."""
    db.execute(_TAGS)
    db.execute("CREATE INDEX tags_by_age ON tags (resolved_at)")

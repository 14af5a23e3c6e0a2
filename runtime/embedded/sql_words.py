"""The words by which the embedded ClickHouse's guard judges a statement, all in small letters."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Refused as a name anywhere: `arrayMap(file, ...)` and `* APPLY file` call it without a bracket behind it.
NAMES_REFUSED = frozenset({"file"})
KEYWORDS_REFUSED = frozenset({"infile", "outfile"})

# Table functions, functions, dictionary sources and disks that read or write elsewhere; `python` reads this process,
# `eval` runs text. A test holds this list and the next against the engine's own list of table functions.
CALLS_REFUSED = _words("""
    file filecluster filesystem url urlcluster s3 s3cluster gcs cosn oss azureblobstorage azureblobstoragecluster
    hdfs hdfscluster hudi hudicluster deltalake deltalakeazure deltalakeazurecluster deltalakecluster deltalakelocal
    deltalakes3 deltalakes3cluster iceberg icebergazure icebergazurecluster icebergcluster iceberghdfs
    iceberghdfscluster iceberglocal iceberglocalcluster icebergs3 icebergs3cluster paimon paimonazure
    paimonazurecluster paimoncluster paimonhdfs paimonhdfscluster paimonlocal paimons3 paimons3cluster
    remote remotesecure cluster clusterallreplicas mysql postgresql mongodb redis sqlite jdbc odbc bigquery ytsaurus
    arrowstream executable executablepool python eval fuzzquery dictionary
    http clickhouse cassandra ydb disk
    airedact aisimilarity aifilter aiclassify aiembed aiextract aigenerate aitranslate
""")
TABLE_FUNCTIONS_ALLOWED = _words("""
    sqlstandardvalues format fuzzjson generaterandom generateseries generate_series input loop merge
    mergetreeanalyzeindexes mergetreeanalyzeindexesuuid mergetreecodecblockcounts mergetreeindex mergetreeprojection
    mergetreetextindex null numbers numbers_mt primes prometheusquery prometheusqueryrange timeseriesdata
    timeseriesmetricfamilies timeseriesmetrics timeseriessamples timeseriesselector timeseriestags values view
    viewexplain viewifpermitted zeros zeros_mt
""")

# The engine lets anyone make tables of the engines that its access rights do not know as sources, QueryRunner among
# them, which runs the text that is inserted. So engines, of tables and of databases, are allowed by name.
ENGINES_ALLOWED = _words("""
    mergetree replacingmergetree summingmergetree aggregatingmergetree collapsingmergetree coalescingmergetree
    versionedcollapsingmergetree memory log tinylog stripelog null set join buffer merge view materializedview alias
    generaterandom atomic
""")
MAKERS = frozenset({"create", "attach", "replace"})

# Statements that may name identifiers by parameter: the value is then at hand, and nothing is kept for later.
READERS = _words("select with insert drop truncate describe desc show exists optimize")

# Statements without a result, whose answer says nothing of a format.
SILENT = _words("""
    create alter drop truncate insert rename use set system detach attach replace undrop exchange grant revoke kill
    optimize delete update
""")

# In the head of an INSERT: what follows is not data in a format.
EXPRESSIONS_FOLLOW = frozenset({"values", "select", "with", "from", "watch"})

#!/usr/bin/env bash
# The paper's tables and figures from scratch. The same command again goes on where it stopped.
#
#   bash run_all.sh                 table2 table4 tableA1 tableA2 fig1 fig3 figA1 figA2 fig4
#   bash run_all.sh table2 fig4     some of them
#   bash run_all.sh table3          Bloom, Llama 2 and 3: pip install peft bitsandbytes, a card of
#                                   24 GB, Llama's licence accepted at the hub (hf auth login);
#                                   GPT-3.5: pip install openai, OPENAI_API_KEY, PRICES
#   bash run_all.sh tableA1_full    with back translation (pip install sentencepiece sacremoses) and
#                                   contextual insertion; their models come from the hub
#   bash run_all.sh own FILE        which method, on your own texts: six methods, three seeds, a
#                                   table and a sentence
#   bash run_all.sh --dry_run       the runs, which are finished, and how long the others take
#   bash run_all.sh quick           the whole path in about 12 minutes on 2 cores: few texts and
#                                   values, so it shows that all works, and nothing of the methods
#
# Variables narrow and spread it:
#   DATASETS    r52 ohsumed trec dblp biomedical cr     quick: trec cr
#   PRICES      none, and no GPT-3.5; INPUT OUTPUT, dollars for a million tokens: agrees to pay
#   METHODS     all of table 2; the other tables show sharprecl, fig4 sclce and spcl as well
#   SEEDS       0 1 2 3 4 5 6 7 8 9                     quick: 0 1
#   IRS         original 50 20 10, of table 2           quick: 50
#   ENCODER     bert-base-uncased                       quick: minilm
#   EPOCHS      main.py's                               quick: 1
#   JOBS        1, the processes at a time              quick: 2
#   SHARD       1/1; i/n runs every n-th, for many machines: SHARD=$SLURM_ARRAY_TASK_ID/40
#   OUTPUT_DIR  runs/all                                quick: runs/quick
#   DATA_DIR    main.py's
#   PYTHON      .venv/bin/python where there is one, else python3
#   FLAGS       none; more of main.py's flags, for every run, in place of a table's own; for own
#               FILE, say, FLAGS="--text_column body --read encoding=cp1251"

set -euo pipefail
export STARTED_IN=$PWD          # own FILE is looked for there
cd "$(dirname "$0")"
[ -x .venv/bin/python ] && : "${PYTHON:=.venv/bin/python}"
: "${PYTHON:=python3}"
"$PYTHON" -m engine.environment
exec "$PYTHON" -m engine.grids "$@"     # the lists of runs, and report.py at the end

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
#   bash run_all.sh study_a study_b the study of docs/results.md: settings on development texts, then
#                                   the test table; they take days on two cores
#   bash run_all.sh --dry_run       the runs, which are finished, and how long the others take
#   bash run_all.sh quick           the whole path in at most 15 minutes on 2 cores: few texts and
#                                   values, so it shows that all works, and nothing of the methods
#
# Variables narrow and spread it:
#   DATASETS    r52 ohsumed trec dblp biomedical cr     quick: trec cr; studies: not r52
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
started_in=$PWD
cd "$(dirname "$0")"

all="table2 table4 tableA1 tableA2 fig1 fig3 figA1 figA2 fig4"
on_request="table3 tableA1_full study_a study_b"
tables="" dry_run="" quick="" own=""
while [ $# -gt 0 ]; do
    argument=$1; shift
    case " $all $on_request " in *" $argument "*) tables="$tables $argument"; continue ;; esac
    case $argument in
        quick) quick=yes ;;
        --dry_run) dry_run=--dry_run ;;
        own) own=${1-}
             case $own in "" | /*) ;; *) own=$started_in/$own ;; esac
             [ -e "$own" ] || { echo "error: own needs your file, such as: bash run_all.sh own" \
                                     "reviews.csv; there is no $(printf %q "${own:-file}")" >&2
                                exit 2; }
             shift ;;
        *) echo "error: $(printf %q "$argument") is neither quick, own, --dry_run nor one of:" \
               "$all $on_request" >&2
           exit 2 ;;
    esac
done

flags=${FLAGS:-}
ablations="sshm cl cls ss hm mi delta_both delta_cls delta_cl"
augmentations=""        # all that need no download, from the registry in augment.py
ks="10 20 30 40 50" values="0.1 0.3 0.5 0.7 0.9 1"
if [ -n "$quick" ]; then
    : "${DATASETS:=trec cr}" "${SEEDS:=0 1}" "${IRS:=50}" "${ENCODER:=minilm}" "${EPOCHS:=1}"
    : "${JOBS:=2}" "${OUTPUT_DIR:=runs/quick}"
    ablations="cl mi delta_cl" augmentations="word_substitution none" ks="10 20" values="0.5 1"
    flags="--max_per_class 100 --batch_size 16 --max_length 32 --lr 2e-4 $flags"
fi
if [ -n "$own" ]; then
    tables=own_texts DATASETS=$own
    : "${SEEDS:=0 1 2}" "${ENCODER:=minilm}" "${EPOCHS:=5}" "${OUTPUT_DIR:=runs/own}"
    : "${METHODS:=tfidf probe spcl la wce sharprecl}"
fi
case "$tables" in *study_*) : "${SEEDS:=0 1 2}" "${ENCODER:=minilm}" "${EPOCHS:=15}" \
    "${OUTPUT_DIR:=runs/study}" "${DATASETS:=cr biomedical trec ohsumed dblp}" ;;
esac
[ -x .venv/bin/python ] && : "${PYTHON:=.venv/bin/python}"
: "${PYTHON:=python3}"
"$PYTHON" -m engine.environment
registry=$("$PYTHON" -c "from data import DATASETS as known
print(*known)
print(*(name for name, dataset in known.items() if dataset.paper_irs is not None))
print(*(name for name, dataset in known.items() if dataset.paper_irs == ()))")
{ read -r known_datasets; read -r paper_datasets; read -r as_they_are; } <<< "$registry"
: "${DATASETS:=$paper_datasets}" "${SEEDS:=0 1 2 3 4 5 6 7 8 9}"
: "${IRS:=original 50 20 10}" "${ENCODER:=}" "${EPOCHS:=}" "${JOBS:=1}" "${SHARD:=1/1}"
: "${OUTPUT_DIR:=runs/all}" "${DATA_DIR:=}"
[ -n "$own" ] || for dataset in $DATASETS; do
    case " $known_datasets " in *" $dataset "*) continue ;; esac
    [ -e "$dataset" ] || { echo "error: no dataset and no file is called" \
                                "$(printf %q "$dataset")" >&2; exit 2; }
done
case $OUTPUT_DIR in -*) OUTPUT_DIR=./$OUTPUT_DIR ;; esac
for name in own OUTPUT_DIR DATA_DIR ENCODER; do     # a run is a line of text for engine/grid.py
    case ${!name} in *$'\n'*)
        echo "error: $(printf %q "${!name}"): a name with a line end in it; rename it" >&2; exit 2 ;;
    esac
done

if [ "$ENCODER" = bert-base-uncased ]; then ENCODER=""; fi      # roberta takes its own
methods=$("$PYTHON" -m baselines table2)
language_models=$("$PYTHON" -m baselines table3)
if [ -z "${PRICES-}" ]; then language_models=${language_models/gpt35 /}; fi     # it costs money
case "$tables" in *study_*) : "${METHODS:=la sharprecl w/o_cl vs bert wce bcl spcl}" ;; esac
if [ -n "$ENCODER" ] && [ -z "${METHODS-}" ]; then
    echo "roberta is left out: its row needs roberta-base, not $ENCODER" >&2
    methods=${methods/roberta /}
fi
table3_methods=${METHODS:-$language_models sharprecl}
: "${METHODS:=$methods}"

# ---- the runs: a line of main.py's arguments each ----

run_line() { printf '%s\n' "${*//$'\n'/ }"; }       # FLAGS may come in several lines

quoted() {          # TEXT, as Python's shlex reads it; printf %q writes $'...' in some locales
    printf '%s\n' "$1" | sed "s/'/'\\\\''/g; s/^/'/; s/\$/'/"
}

first_seed=${SEEDS%% *}
flags="${DATA_DIR:+--data_dir=$(quoted "$DATA_DIR")} ${EPOCHS:+--epochs $EPOCHS} $flags"
flags="${ENCODER:+--encoder=$(quoted "$ENCODER")} $flags --output_dir=$(quoted "$OUTPUT_DIR")"

runs() {    # DATASET IR METHOD [FLAG...]: a line for each seed, if DATASETS and METHODS have it
    local run="--dataset $1 --ir $2 --method $3" key="$1 $2 $3" keep
    [[ " $DATASETS " == *" $1 "* && " $METHODS " == *" $3 "* ]] || return 0
    shift 3
    for seed in $SEEDS; do
        keep=--no_weights       # thousands of encoders fill a disk
        # those of Figure 4 are drawn whichever table wants them first
        case "$key seed$seed $*" in
            "trec 50 sclce seed$first_seed " | "trec 50 spcl seed$first_seed " | \
            "trec 50 sharprecl seed$first_seed ") keep=--plots ;;
        esac
        run_line "${run/--ir original /} $* --seed $seed $keep $flags"
    done
}

vary() {    # DATASET FLAG DEFAULT VALUE: a run of SharpReCL; the default needs no flag
    local flag="$2 $4"
    if [ "$3" = "$4" ]; then flag=; fi
    runs "$1" "$(ir_of "$1")" sharprecl $flag
}

as_it_is() { [[ " $as_they_are " == *" $1 "* ]]; }      # imbalanced from the start

ir_of() { if as_it_is "$1"; then echo original; else echo 50; fi; }

table2() {
    for dataset in $DATASETS; do
        for ir in $(if as_it_is "$dataset"; then echo original; else echo "$IRS"; fi); do
            for method in $METHODS; do runs "$dataset" "$ir" "$method"; done
        done
    done
}

table3() {
    local METHODS=$table3_methods consent
    [ -n "${PRICES-}" ] || echo "gpt35 is left out: set PRICES to pay for it" >&2
    for dataset in $DATASETS; do
        for method in $language_models sharprecl; do
            consent=
            if [ "$method" = gpt35 ]; then consent="--prices $PRICES --yes"; fi
            runs "$dataset" "$(ir_of "$dataset")" "$method" $consent
        done
    done
}

table4() {
    for dataset in $DATASETS; do
        runs "$dataset" "$(ir_of "$dataset")" sharprecl
        for ablation in $ablations; do
            runs "$dataset" "$(ir_of "$dataset")" sharprecl --ablation $ablation
        done
    done
}

tableA1() {
    local names=${augmentations:-$(registered "not (entry.models or entry.packages)")}
    for dataset in $DATASETS; do
        for augment in $names; do runs "$dataset" original sharprecl --augment $augment; done
    done
}

tableA1_full() { local augmentations; augmentations="$(registered True) auto"; tableA1; }

tableA2() {
    for dataset in $DATASETS; do
        for k in $ks; do vary "$dataset" --k 20 "$k"; done
    done
}

registered() {      # CONDITION: the augmentations whose entry fulfils it
    "$PYTHON" -c "from augment import AUGMENTATIONS
print(*(name for name, entry in AUGMENTATIONS.items() if $1))"
}

mu_and_tau() {
    for dataset in "$@"; do
        for value in $values; do
            vary "$dataset" --mu 1 "$value"
            vary "$dataset" --tau 0.5 "$value"
        done
    done
}

fig1() { local SEEDS=$first_seed; runs ohsumed original sharprecl; }      # any run shows the class sizes
fig3() { mu_and_tau ohsumed r52; }
figA1() { mu_and_tau trec dblp; }
figA2() { mu_and_tau biomedical cr; }

fig4() {
    local SEEDS=$first_seed
    for method in sclce spcl sharprecl; do runs trec 50 $method; done
}

own_texts() {       # the cheap ones first; the heads at ten times the rate; views of any language
    local setting held_out="--val_fraction 0.2"     # unless a folder brings such texts of its own
    shopt -s nullglob nocaseglob
    set -- "$own"/{[v]alidation,[v]alid,[v]al,[d]ev}{,.*}       # brackets make each a pattern
    if [ $# -gt 0 ]; then held_out=; fi
    shopt -u nullglob nocaseglob
    for method in $METHODS; do
        case $method in
            tfidf | probe | spcl) setting= ;;                           # these have no heads
            sharprecl) setting="--head_lr 1e-3 --tau 0.1 --augment none" ;;
            *) setting="--head_lr 1e-3" ;;
        esac
        for seed in $SEEDS; do
            run_line "--dataset $(quoted "$own") --method $method $setting --seed $seed" \
                "$held_out --batch_size 32 --lr 1e-4 --warmup 0.1 --schedule linear --no_weights $flags"
        done
    done
}

study_runs() {      # DATASET FLAG...: a line for each seed, with its own draw of the training texts
    local dataset=$1 cut
    shift
    [[ " $DATASETS " == *" $dataset "* ]] || return 0
    case $dataset in
        cr | trec) cut="--ir 50 --val_left_out 200" ;;
        biomedical | wordnet) cut="--ir 50 --max_per_class 300 --val_left_out 60 --eval_every 3" ;;
        dblp) cut="--ir 50 --max_per_class 1000 --val_left_out 200 --eval_every 3" ;;
        *) cut="--val_fraction 0.25 --eval_every 3" ;;                  # as it is
    esac
    for seed in $SEEDS; do
        run_line "--dataset $dataset $cut $* --seed $seed --data_seed $seed --batch_size 64 --lr 1e-4" \
            "--warmup 0.1 --schedule linear --max_length 64 --amp bf16 --no_weights $flags"
    done
}

study_a() {         # development texts choose the reading, mu and tau; what leads comes first
    local seeds=$SEEDS SEEDS dataset mu
    for SEEDS in $seeds; do         # the first seed of all before the second of any
        for dataset in cr biomedical; do
            study_runs $dataset --method la
            for mu in 1 0.3; do study_runs $dataset --mu $mu; done
            for mu in 1 0.3; do study_runs $dataset --mu $mu --cl_reduction mean; done
            for method in vs bcl; do study_runs $dataset --method $method; done
        done
    done
    for SEEDS in $seeds; do         # tau, and weights that a weighted mean does not cancel
        for dataset in cr biomedical; do
            for mu in 1 0.3; do
                for tau in 0.1 1; do
                    study_runs $dataset --mu $mu --tau $tau
                    study_runs $dataset --mu $mu --tau $tau --cl_reduction mean
                done
            done
            for weights in log_prior_normalised effective_number none; do
                study_runs $dataset --cl_weight $weights --cl_reduction mean
            done
        done
    done
}

study_b() {         # the test table; METHODS takes some of its rows
    local row dataset
    for row in $METHODS; do
        for dataset in $DATASETS; do
            case $row in
                w/o_cl) study_runs $dataset --ablation cl ;;        # logit adjustment, both views
                *) study_runs $dataset --method "$row" ;;
            esac
        done
    done
}

# ---- run them, and report ----

lines=$(for table in ${tables:-$all}; do $table; done)
status=1
"$PYTHON" -m engine.grid --jobs "$JOBS" --shard "$SHARD" $dry_run <<< "$lines" &
runner=$!
trap 'kill -TERM $runner 2>/dev/null' INT TERM HUP       # it stops its runs after whole epochs
while kill -0 $runner 2>/dev/null; do                    # a signal ends wait, not the runner
    status=0
    wait $runner || status=$?
done
if [ -n "$dry_run" ] || [ $status -gt 1 ]; then exit $status; fi
if [ -n "$own" ]; then
    "$PYTHON" report.py "$OUTPUT_DIR" --choose || status=1
else
    "$PYTHON" report.py "$OUTPUT_DIR" --output_dir "$OUTPUT_DIR/report" || status=1
fi
exit $status

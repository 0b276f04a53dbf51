#!/usr/bin/env bash
# The comparison of the README: four arms, three seeds, two runs side by side, one thread each.
# From the repository's root: bash results/compare.sh
# Interrupted, it goes on where it was. About an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
out=runs/compare
mkdir -p $out
base() { python train.py --stage 0 --seed "$1" --folder "$out/base-$1" --threads 1 >>"$out/base-$1.txt" 2>&1; }
run() { # seed arm flags...
  local seed=$1 arm=$2
  shift 2
  python train.py --stage 2 --seed "$seed" --folder "$out/$arm-$seed" --base "$out/base-$seed/stage0.pt" \
    --threads 1 --eval_every 50 "$@" >>"$out/$arm-$seed.txt" 2>&1
}
alpha10() { # the paper's α, from the Stage I of `score`: Stage I knows no α
  mkdir -p "$out/alpha10-$1"
  cp -n "$out/score-$1"/stage1.* "$out/alpha10-$1"
  run "$1" alpha10 --alpha 10
}
# As many rollouts and updates as both stages of `score` have together
naive="--stage2_from base --alpha 0 --offline 0 --stage2_steps 800"
no_stage1="--stage2_from base --stage2_steps 800"

# Two chains, as evenly long as they can be; the second makes the base that the first needs later.
(base 0; run 0 score; run 0 naive $naive; run 2 score; run 2 naive $naive; alpha10 2; run 2 no-stage1 $no_stage1) &
(base 1; base 2; run 1 score; run 1 naive $naive; alpha10 1; alpha10 0; run 1 no-stage1 $no_stage1; run 0 no-stage1 $no_stage1) &
wait

# The test split, once, for everything at a time.
python evaluate.py --split test --json results/compare.json --checkpoint \
  $out/base-?/stage0.pt $out/score-?/stage1.pt $out/score-?/stage2.pt $out/naive-?/stage2.pt \
  $out/alpha10-?/stage2.pt $out/no-stage1-?/stage2.pt
python evaluate.py --summary results/compare.json

# The curves over training, on the validation split: [step, Accuracy@t1, Accuracy@t2] of every run.
python - $out <<'EOF' >results/curves.json
import json, pathlib, sys
curves = {}
for log in sorted(pathlib.Path(sys.argv[1]).glob("*/stage[12].jsonl")):
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    points = [(x["step"] + 1, x["held_out"]) for x in lines if "held_out" in x]
    curves[f"{log.parent.name}/{log.stem}"] = [[n, round(m["t1"], 1), round(m["t2"], 1)] for n, m in points]
print(json.dumps(curves).replace("]], ", "]],\n "))
EOF

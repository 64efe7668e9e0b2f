#!/bin/bash
# Measures every table of docs/benchmarks.md again, one after the other, and draws the first page's picture.
#
#     benchmarks/all.sh [FOLDER]
#
# Rows and what is printed lie in FOLDER, by default jaxcompress-out-benchmarks, of which the rows go to
# benchmarks/results when they are there. A program that has ended is not run
# again while its .log is there, and those that write rows go on with the row that they were stopped at;
# so it can be killed and started again. What fails is named at the end, and the others still run. All of it
# takes days on 2 cores. WEIGHTS and PICTURES are what benchmarks/real_mobilenet.py and peers_after_training.py read; where they are
# not set, these are left out, and told.
cd "$(dirname "$0")/.." || exit 2
out=${1:-jaxcompress-out-benchmarks}
mkdir -p "$out" || exit 2
failed=()

measure() { # NAME COMMAND...
  local name=$1 log=$out/$1.log
  shift
  [ -e "$log" ] && return
  echo "$*"
  if "$@" >"$log.partial" 2>&1; then
    mv "$log.partial" "$log"
  else
    failed+=("$name: see $log.partial")
  fi
}

resume() { # FOLDER
  [ -d "$out/$1" ] && echo --resume
}

measure compress jaxcompress compress --out "$out/compress" $(resume compress)
measure distillation_gain python benchmarks/distillation_gain.py
measure distillation_table python benchmarks/distillation_table.py --out "$out/distillation_table.jsonl"
measure distillation_fashion python benchmarks/distillation_table.py --data fashion-mnist --tries 0.1,0.5,2 \
  --best 8 --seeds 3 --steps 300 --teacher-steps 2500 --out "$out/distillation_fashion.jsonl"
measure distillation_cost python benchmarks/distillation_cost.py
measure fashion_32kb jaxcompress compress --preset fashion-mnist-32kb --out "$out/fashion_32kb" $(resume fashion_32kb)
measure ladder python benchmarks/ladder.py --out "$out/ladder.jsonl"
measure quantization python benchmarks/quantization.py
if [ -n "$WEIGHTS" ] && [ -n "$PICTURES" ]; then
  measure real_mobilenet python benchmarks/real_mobilenet.py "$WEIGHTS" "$PICTURES" \
    --out "$out/real_mobilenet.jsonl"
  measure peers_after_training python benchmarks/peers_after_training.py "$WEIGHTS" "$PICTURES" \
    --out "$out/peers_after_training.jsonl"
else
  failed+=("real_mobilenet, peers_after_training: left out; set WEIGHTS and PICTURES")
fi
measure pruning_fashion python benchmarks/pruning.py --out "$out/pruning.jsonl" --data fashion-mnist \
  --steps 6000 --tune 2000 --goals 1/2macs,75%,90%
measure pruning_resnet python benchmarks/pruning.py --out "$out/pruning.jsonl" --data fashion-mnist \
  --models resnet8 --steps 3000 --tune 1000 --goals 1/2macs,75%,90%
measure pruning python benchmarks/pruning.py --out "$out/pruning.jsonl"
measure edge python benchmarks/edge.py --size 224 --repeats 50
measure file_sizes python benchmarks/file_sizes.py
measure exactness python benchmarks/exactness.py --out "$out/exactness.jsonl"
measure exactness_arm python benchmarks/exactness.py --out "$out/exactness_arm.jsonl" \
  --processors cortex-a53 cortex-a76 neoverse-v1 --runtimes xnnpack --weights random --sizes 96 \
  --images 16 --bits 8
measure cortex_m python benchmarks/cortex_m.py --out "$out/cortex_m.jsonl"
measure peers python benchmarks/peers.py --repeats 5 --out "$out/peers.jsonl"
measure microcontroller python benchmarks/microcontroller.py
measure microcontroller_memory python benchmarks/microcontroller_memory.py
measure scaling python benchmarks/scaling.py
measure banks python benchmarks/banks.py
measure faults python benchmarks/faults.py
measure input python benchmarks/input.py
measure picture python benchmarks/picture.py --results "$out"

[ ${#failed[@]} -eq 0 ] && exit
printf '%s\n' "${failed[@]}"
exit 1

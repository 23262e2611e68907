#!/bin/bash
# diffexplain on Slurm: four machines of eight GPUs, a worker on each GPU.
#SBATCH --nodes=4 --gpus-per-node=8 --cpus-per-task=64 --ntasks-per-node=1
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)
srun --nodes=1 --ntasks=1 -w "$head" ray start --head --port=6379 --block &
sleep 20
srun --nodes=3 --ntasks=3 --exclude="$head" ray start --address="$head:6379" --block &
sleep 20
srun --nodes=1 --ntasks=1 -w "$head" --overlap diffexplain explain timm:resnet50.a1_in1k \
  --images dogs/ --target "golden retriever" --editor sd-1.5 --corpus pets.yaml \
  --out "$TMPDIR/dogs" --on "ray://$head:6379"
cp -r "$TMPDIR/dogs" runs/

"""The same study where others hand out the machines: a JobSet for GKE, a script for Slurm."""

import shlex
import textwrap

from tpu.slices import Slice
from tpu.startup import Place, script
from tpu.study import Study

JOBSET = """\
# The source first, by somebody who may write to the bucket:
#   git bundle create source.bundle HEAD
#   gcloud storage cp source.bundle {source}
# Then this, on a cluster with JobSet (jobset.sigs.k8s.io) and node pools of this kind of slice.
# The pods' service account needs the bucket too, by Workload Identity.
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: {name}
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    # A pod that was taken away starts the set again without limit, a crash ten times.
    maxRestarts: 10
    rules:
      - action: RestartJobSetAndIgnoreMaxRestarts
        onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
    - name: slice
      replicas: {slices}
      template:
        spec:
          parallelism: {hosts}
          completions: {hosts}
          backoffLimit: 0
          podFailurePolicy:
            rules:
              - action: FailJob
                onPodConditions:
                  - type: DisruptionTarget
                    status: "True"
          template:
            spec:
              restartPolicy: Never
              terminationGracePeriodSeconds: 120
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: {accelerator}
                cloud.google.com/gke-tpu-topology: {topology}
{spot}\
              containers:
                - name: study
                  image: python:3.11
                  ports:
                    - containerPort: 8471
                    - containerPort: 8080
                  resources:
                    requests:
                      google.com/tpu: {chips}
                    limits:
                      google.com/tpu: {chips}
                  command:
                    - bash
                    - -c
                    - |
{script}"""

SPOT = """\
                cloud.google.com/gke-spot: "true"
              tolerations:
                - key: cloud.google.com/gke-spot
                  operator: Exists
"""

SLURM = """\
#!/bin/bash
# Submit it in the checkout, on a disk that the machines share, with .[cuda] installed in .venv.
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={tasks}
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive
#SBATCH --output={name}.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Two minutes before its time is over the study is asked to stop, and saves.
#SBATCH --signal=TERM@120

{processes}
srun .venv/bin/python {arguments}
code=$?
# 75: asked to stop, and saved; the same command goes on from there.
[ "$code" = 75 ] && exec scontrol requeue "$SLURM_JOB_ID"
exit "$code"
"""


def jobset(
    study: Study, slice_: Slice, slices: int, tier: str, where: Place, commit: str
) -> str:
    """A JobSet: a job each slice, a pod each host, the script that TPU machines run too."""
    return JOBSET.format(
        source=where.url(f"{where.folder}/source-{commit}.bundle"),
        name=study.name,
        slices=slices,
        hosts=slice_.hosts,
        accelerator=slice_.gke,
        topology=slice_.topology,
        spot=SPOT if tier == "spot" else "",
        chips=slice_.chips_per_host,
        script=textwrap.indent(
            script(study, commit, where, hosts=slices * slice_.hosts, told="first"), " " * 22
        ),
    )


def slurm(study: Study, gpus: int, nodes: int) -> str:
    """A batch script that puts itself in the queue again until the study is done."""
    several = "# A process a GPU, as jax wants it; each finds the others by what Slurm says."
    return SLURM.format(
        name=study.name,
        gpus=gpus,
        nodes=nodes,
        tasks=1 if nodes == 1 else gpus,
        processes="# One process on all GPUs." if nodes == 1 else several,
        arguments=shlex.join(study.arguments("runs")),
    )

// How long a run's statistics take on this machine, by a few replicates on made-up values of the run's size.
#pragma once
#include "base/namespaces.h"
#include "eval/experiment/evaluate.h"
#include "eval/experiment/experiment.h"
#include "probes/shape.h"

namespace signalbox::eval {

// Seconds of all replicates of a stage of detection.
double detection_seconds(const ExperimentSpec& spec, const DetectSpec& one, const Experiment& experiment,
                         const ModelShape& shape, int threads);

// Seconds of the findings: measured of one metric under one main intervention, and under several, which are also
// compared with each other; taken for all interventions and metrics of the evaluation.
double findings_seconds(const ExperimentSpec& spec, const Evaluation& evaluation, int threads);

}  // namespace signalbox::eval

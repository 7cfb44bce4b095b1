// What is asked of a model when circuits are looked for: the metric of each pair with some parts at work and the rest
// ablated. The search and its statistics know no more of a model than this.
#pragma once
#include <cstdint>
#include <map>
#include <vector>

#include "base/namespaces.h"
#include "eval/circuit/node.h"

namespace signalbox::eval {

// [part] 1 = at work; in the order of CircuitScorer::nodes().
using NodeMask = std::vector<uint8_t>;

class CircuitScorer {
 public:
  virtual ~CircuitScorer() = default;
  virtual const std::vector<NodeId>& nodes() const = 0;  // ascending
  virtual size_t n_pairs() const = 0;
  // [part] the share of all tokens at which it runs: 1 for all that is not routed.
  virtual const std::vector<double>& usage() const = 0;
  // [part] 1 = it writes something in a run of either record.
  virtual const NodeMask& active() const = 0;
  // [part] 1 = it does, and what would stand in its place is something else, in some pair. Others do nothing when they
  // go out alone.
  virtual const NodeMask& differing() const { return active(); }
  // [pair] the metric with these parts at work. Asked again, the answer comes from memory.
  const std::vector<double>& scores(const NodeMask& kept);
  // [pair] of the whole model and with everything ablated, the embedding where the ablation has one too.
  virtual const std::vector<double>& whole() const = 0;
  virtual const std::vector<double>& none() const = 0;

  NodeMask all() const { return NodeMask(nodes().size(), 1); }
  NodeMask nothing() const { return NodeMask(nodes().size(), 0); }

 protected:
  virtual std::vector<double> run(const NodeMask& kept) = 0;

 private:
  std::map<NodeMask, std::vector<double>> known_;
};

NodeMask complement_of(const NodeMask& kept);
int64_t count_of(const NodeMask& kept);

}  // namespace signalbox::eval

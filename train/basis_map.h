// How the residual basis of one model stands to that of another, found from what both make of the same tokens: x_a and
// x_b [d], the states at the input of the experts of two layers, brought to a root mean square of 1 (what RMSNorm gives
// before its weight). docs/transplants.md tells the rules.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/no_number.h"
#include "base/thread_pool.h"
#include "train/linear_algebra.h"
#include "train/namespaces.h"

namespace signalbox::train {

// none: the dimensions are the same in both. procrustes: x_b = Q x_a with an orthogonal Q. ridge: two linear maps, for
// any widths. automatic: ridge where the widths differ; else the better of none and procrustes.
enum class Basis : uint8_t { automatic, none, procrustes, ridge };
inline constexpr const char* basis_names[] = {"auto", "none", "procrustes", "ridge"};

// States of the same n tokens in two models, as recorded: resid_mid.
struct StatePairs {
  const std::vector<float>* a = nullptr;  // [n, d_a]
  const std::vector<float>* b = nullptr;  // [n, d_b]
  int64_t d_a = 0, d_b = 0;
  float eps_a = 0, eps_b = 0;             // of the norms
  std::vector<float> weight_a, weight_b;  // of the norms
  std::vector<uint8_t> held_out;          // [n] 1: judges the map, and does not make it
  int64_t n() const { return static_cast<int64_t>(held_out.size()); }
};

struct BasisMap {
  Basis kind = Basis::none;
  DenseMatrix in;    // [d_a, d_b] x_a = in x_b; empty for none
  DenseMatrix out;   // [d_b, d_a] x_b = out x_a; empty for none
  double scale = 1;  // of the stream's length, b over a: the geometric mean over tokens; 1 for none

  // What is told of the fit. Errors are relative, on tokens held out; NaN: not tried.
  int64_t fitted = 0, judged = 0;  // tokens
  int64_t rank = 0;                // procrustes: directions that the tokens determine
  bool whitened = false;           // procrustes: which of the two ways was better
  double residual = no_number;     // |x_b - out x_a| / |x_b|
  // Of what a's expert would read in b, against what it reads in a: each dimension's error over its size, squared, then
  // the root of the mean. So no outlier dimension decides alone. By kind:
  double error_none = no_number, error_procrustes = no_number, error_ridge = no_number;
};

// Throws Error naming --align: different widths without ridge, fewer tokens than dimensions for procrustes (automatic
// then takes none), no token to judge by.
BasisMap fit_basis(const StatePairs& pairs, Basis wanted, double ridge, ThreadPool& pool);

// Every fifth example's tokens, or every fifth token where there are fewer than five examples.
std::vector<uint8_t> held_out_tokens(const std::vector<int64_t>& examples);

}  // namespace signalbox::train

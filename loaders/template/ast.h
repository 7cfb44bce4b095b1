// The parsed form of a template.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "loaders/template/value.h"

namespace signalbox::loaders::jinja {

enum class ExprKind {
  constant,
  name,
  attribute_target,
  list,
  tuple,
  dict,
  negate,
  plus,
  logical_not,
  binary,
  logical_and,
  logical_or,
  compare,
  concat,
  attribute,
  item,
  slice,
  call,
  filter,
  test,
  conditional,
};

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

// One node of an expression. What `parts` holds is told per kind:
//   list, tuple, concat: the items; dict: key, value, key, value, ...
//   negate, plus, logical_not, attribute: the operand; binary, logical_*: left, right; item: object, index
//   compare: operands, one more than `operators`; slice: object, start, stop, step (null where left out)
//   call: callee, then arguments; filter, test: subject (null: the body of a block), then arguments
//   conditional: condition, value, otherwise (may be null)
struct Expr {
  ExprKind kind;
  int line = 0;
  int depth = 1;
  int name = -1;     // name, attribute_target: index in Template::names
  std::string text;  // attribute, filter, test: its name; binary: the operator
  Value constant;
  std::vector<ExprPtr> parts;
  std::vector<std::string> operators;                     // compare
  std::vector<std::pair<std::string, ExprPtr>> keywords;  // call, filter, test
  ExprPtr star, star_star;                                // *args, **kwargs
};

enum class StmtKind {
  output,
  for_loop,
  condition,
  set,
  set_block,
  macro,
  call_block,
  filter_block,
  with,
  scope,
  block,
  break_loop,
  continue_loop,
};

struct Stmt;
using StmtPtr = std::unique_ptr<Stmt>;
using Body = std::vector<StmtPtr>;

struct Branch {
  ExprPtr test;  // null: else
  Body body;
};

struct MacroInfo {
  std::string name;                                                        // empty: a call block's
  std::vector<int> arguments;                                              // names
  std::vector<ExprPtr> defaults;                                           // of the last arguments
  bool wants_caller = false, wants_kwargs = false, wants_varargs = false;  // the body mentions them
};

//   output: exprs; for_loop: target, value (the iterable), test, body, else_body, recursive; condition: branches
//   set: target, value; set_block: target, value (a filter or null), body; macro: name, macro, body
//   call_block: value (the call; null for {% generation %}), macro, body; filter_block: value, body
//   with: targets, exprs, body; scope, block: body
struct Stmt {
  StmtKind kind;
  int line = 0;
  std::vector<ExprPtr> exprs, targets;
  ExprPtr target, value, test;
  Body body, else_body;
  std::vector<Branch> branches;
  MacroInfo macro;
  int name = -1;
  bool recursive = false;
};

struct Template {
  std::vector<std::string> names;  // of all variables
  Body body;
};

// Throws SyntaxFailure, naming what it does not know.
Template parse(std::string_view source);

}  // namespace signalbox::loaders::jinja

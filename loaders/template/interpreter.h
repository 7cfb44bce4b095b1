// Runs a parsed template.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/namespaces.h"
#include "loaders/template/ast.h"
#include "loaders/template/runtime.h"

namespace signalbox::loaders::jinja {

// What one render may use before it ends with an error.
struct Limits {
  uint64_t steps = 10'000'000;            // nodes evaluated, items walked, and string work (64 bytes a step)
  uint64_t memory = uint64_t{512} << 20;  // bytes alive at once
  uint64_t output = uint64_t{64} << 20;   // bytes of text
  int calls = 200;                        // macros and recursive loops inside each other
  uint64_t stack = uint64_t{2} << 20;     // bytes of C++ stack below render()
};

// Variables of a scope. A loop's body, a macro, a with block each open one; an if does not.
struct Scope {
  explicit Scope(std::shared_ptr<Scope> parent_in) : parent(std::move(parent_in)) {}
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<int, Value>> variables;  // by index in Template::names
  bool captured = false;                         // kept alive until the render ends
};
using ScopePtr = std::shared_ptr<Scope>;

class Interpreter : public Runtime {
 public:
  Interpreter(const Template& parsed, const Limits& limits, std::string date)
      : Runtime(limits.steps, limits.memory), template_(parsed), limits_(limits), date_(std::move(date)) {}
  ~Interpreter() override;

  void set_global(std::string_view name, Value value);
  // Renders into `out`; throws Failure, with line() telling where.
  void run(TextBuilder& out);
  int line() const { return line_; }
  std::string now(const std::string& format) override;

  // The text of a recursive loop over `iterable`; what loop(...) gives.
  Value call_loop(const Stmt& stmt, const ScopePtr& scope, const Value& iterable, int depth);
  void assign(const Expr& target, Scope& scope, const Value& value, const ScopePtr& lookup);
  Value eval(const Expr& expr, const ScopePtr& scope);

 private:
  enum class Flow { normal, break_loop, continue_loop };
  struct Call;  // counts the nesting of calls

  Flow exec(const Body& body, const ScopePtr& scope);
  Flow exec(const Stmt& stmt, const ScopePtr& scope);
  void output(const Stmt& stmt, const ScopePtr& scope);
  Value capture(const Body& body, const ScopePtr& scope, Flow& flow);
  Flow set_block(const Stmt& stmt, const ScopePtr& scope);
  Flow filter_block(const Stmt& stmt, const ScopePtr& scope);
  void add_result(const Value& value);
  void call_block(const Stmt& stmt, const ScopePtr& scope);
  Flow with(const Stmt& stmt, const ScopePtr& scope);
  Flow loop_body(const Stmt& stmt, const ScopePtr& scope, const Value& iterable, int depth, bool& any);
  Value make_macro(const Stmt& stmt, const ScopePtr& scope);
  Value call_macro(const Stmt& stmt, const ScopePtr& scope, Args& args);

  Value lookup(int name, const Scope* scope) const;
  void store(Scope& scope, int name, Value value);
  void keep(const ScopePtr& scope);
  void guard_stack() const;

  Args arguments(const Expr& call, const ScopePtr& scope);
  Value eval_compare(const Expr& expr, const ScopePtr& scope);
  Value eval_binary(const Expr& expr, const ScopePtr& scope);
  Value eval_items(const Expr& expr, const ScopePtr& scope);
  Value eval_dict(const Expr& expr, const ScopePtr& scope);
  Value eval_slice(const Expr& expr, const ScopePtr& scope);
  Value eval_concat(const Expr& expr, const ScopePtr& scope);
  Value eval_call(const Expr& expr, const ScopePtr& scope, const Value* caller);
  Value eval_filter(const Expr& expr, const ScopePtr& scope);
  Value eval_test(const Expr& expr, const ScopePtr& scope);
  Value eval_conditional(const Expr& expr, const ScopePtr& scope);

  const Template& template_;
  const Limits limits_;
  const std::string date_;
  std::vector<std::pair<std::string, Value>> globals_;
  ScopePtr root_;
  std::vector<Value> root_values_;  // of the root scope, by name
  std::vector<char> root_set_;
  TextBuilder* out_ = nullptr;
  const TextBuilder* page_ = nullptr;  // the render's own output
  std::vector<ScopePtr> kept_;
  Value block_text_;  // what the filter of a block works on
  int line_ = 1, calls_ = 0;
  const char* stack_ = nullptr;
};

}  // namespace signalbox::loaders::jinja

// Expressions.
#include "loaders/template/interpreter.h"

namespace signalbox::loaders::jinja {

Value Interpreter::eval(const Expr& expr, const ScopePtr& scope) {
  budget.step();
  guard_stack();
  line_ = expr.line;
  switch (expr.kind) {
    case ExprKind::constant: return expr.constant;
    case ExprKind::name: return lookup(expr.name, scope.get());
    case ExprKind::list:
    case ExprKind::tuple: return eval_items(expr, scope);
    case ExprKind::dict: return eval_dict(expr, scope);
    case ExprKind::negate: return negate(*this, eval(*expr.parts[0], scope));
    case ExprKind::plus: return plus(*this, eval(*expr.parts[0], scope));
    case ExprKind::logical_not: return Value::boolean(!truth(eval(*expr.parts[0], scope)));
    case ExprKind::binary: return eval_binary(expr, scope);
    case ExprKind::logical_and: {
      Value left = eval(*expr.parts[0], scope);
      return truth(left) ? eval(*expr.parts[1], scope) : left;
    }
    case ExprKind::logical_or: {
      Value left = eval(*expr.parts[0], scope);
      return truth(left) ? left : eval(*expr.parts[1], scope);
    }
    case ExprKind::compare: return eval_compare(expr, scope);
    case ExprKind::concat: return eval_concat(expr, scope);
    case ExprKind::attribute: {
      const Value object = eval(*expr.parts[0], scope);
      line_ = expr.line;
      return attribute(object, expr.text);
    }
    case ExprKind::item: {
      const Value object = eval(*expr.parts[0], scope);
      const Value key = eval(*expr.parts[1], scope);
      line_ = expr.line;
      return item(object, key);
    }
    case ExprKind::slice: return eval_slice(expr, scope);
    case ExprKind::call: return eval_call(expr, scope, nullptr);
    case ExprKind::filter: return eval_filter(expr, scope);
    case ExprKind::test: return eval_test(expr, scope);
    case ExprKind::conditional: return eval_conditional(expr, scope);
    case ExprKind::attribute_target: break;
  }
  throw Failure{"this expression cannot be evaluated"};
}

Value Interpreter::eval_items(const Expr& expr, const ScopePtr& scope) {
  std::vector<Value> items;
  items.reserve(expr.parts.size());
  for (const auto& part : expr.parts) items.push_back(eval(*part, scope));
  return expr.kind == ExprKind::list ? list(std::move(items)) : tuple(std::move(items));
}

Value Interpreter::eval_dict(const Expr& expr, const ScopePtr& scope) {
  std::vector<Dict::Entry> entries;
  entries.reserve(expr.parts.size() / 2);
  for (size_t i = 0; i + 1 < expr.parts.size(); i += 2) {
    Value key = eval(*expr.parts[i], scope);
    entries.emplace_back(std::move(key), eval(*expr.parts[i + 1], scope));
  }
  return dict(std::move(entries));
}

Value Interpreter::eval_binary(const Expr& expr, const ScopePtr& scope) {
  const Value left = eval(*expr.parts[0], scope);
  const Value right = eval(*expr.parts[1], scope);
  line_ = expr.line;
  if (expr.text == "+") return add(*this, left, right);
  if (expr.text == "-") return subtract(*this, left, right);
  if (expr.text == "*") return multiply(*this, left, right);
  if (expr.text == "/") return divide(*this, left, right);
  if (expr.text == "//") return floor_divide(*this, left, right);
  if (expr.text == "%") return modulo(*this, left, right);
  return power(*this, left, right);
}

Value Interpreter::eval_compare(const Expr& expr, const ScopePtr& scope) {
  Value left = eval(*expr.parts[0], scope);
  for (size_t i = 0; i < expr.operators.size(); ++i) {  // a < b < c stops at the first that fails
    Value right = eval(*expr.parts[i + 1], scope);
    const std::string& op = expr.operators[i];
    bool holds;
    if (op == "==")
      holds = equal(left, right);
    else if (op == "!=")
      holds = !equal(left, right);
    else if (op == "in")
      holds = contains(right, left);
    else if (op == "not in")
      holds = !contains(right, left);
    else {
      const int order = compare(budget, left, right, op.c_str());
      if (op == "<")
        holds = order == -1;
      else if (op == "<=")
        holds = order <= 0;
      else if (op == ">")
        holds = order == 1;
      else
        holds = order == 0 || order == 1;
    }
    if (!holds) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interpreter::eval_concat(const Expr& expr, const ScopePtr& scope) {
  std::vector<Value> parts;
  for (const auto& part : expr.parts) parts.push_back(eval(*part, scope));
  TextBuilder out(budget);
  for (const Value& part : parts) add_str(out, part);
  return out.finish();
}

Value Interpreter::eval_slice(const Expr& expr, const ScopePtr& scope) {
  const Value object = eval(*expr.parts[0], scope);
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) bounds[i] = expr.parts[i + 1] ? eval(*expr.parts[i + 1], scope) : Value::none();
  line_ = expr.line;
  return slice(object, bounds[0], bounds[1], bounds[2]);
}

Args Interpreter::arguments(const Expr& call, const ScopePtr& scope) {
  Args args;
  for (size_t i = 1; i < call.parts.size(); ++i) args.positional.push_back(eval(*call.parts[i], scope));
  for (const auto& [name, expr] : call.keywords) args.named.emplace_back(name, eval(*expr, scope));
  if (call.star) {
    const Value more = eval(*call.star, scope);
    for (Value& item : collect(more)) args.positional.push_back(std::move(item));
  }
  if (call.star_star) {
    const Value more = eval(*call.star_star, scope);
    if (!more.is(Kind::dict)) throw Failure{std::string("argument after ** must be a mapping, not ") + type_name(more)};
    for (const auto& [key, value] : more.dict().entries) {
      if (!key.is_string()) throw Failure{"keywords must be strings"};
      for (const auto& named : args.named)
        if (named.first == key.text().bytes)
          throw Failure{"got multiple values for keyword argument '" + shorten(key.text().bytes) + "'"};
      args.named.emplace_back(key.text().bytes, value);
    }
  }
  return args;
}

Value Interpreter::eval_call(const Expr& expr, const ScopePtr& scope, const Value* caller) {
  const Value callee = eval(*expr.parts[0], scope);
  Args args = arguments(expr, scope);
  if (caller) {
    for (const auto& named : args.named)
      if (named.first == "caller") throw Failure{"a call block cannot pass 'caller' itself"};
    args.named.emplace_back("caller", *caller);
  }
  line_ = expr.line;
  return call(callee, args);
}

Value Interpreter::eval_filter(const Expr& expr, const ScopePtr& scope) {
  const Value subject = expr.parts[0] ? eval(*expr.parts[0], scope) : block_text_;
  Args args = arguments(expr, scope);
  line_ = expr.line;
  return call_filter(expr.text, subject, args);
}

Value Interpreter::eval_test(const Expr& expr, const ScopePtr& scope) {
  const Value subject = eval(*expr.parts[0], scope);
  Args args = arguments(expr, scope);
  line_ = expr.line;
  return Value::boolean(call_test(expr.text, subject, args));
}

Value Interpreter::eval_conditional(const Expr& expr, const ScopePtr& scope) {
  if (truth(eval(*expr.parts[0], scope))) return eval(*expr.parts[1], scope);
  if (expr.parts[2]) return eval(*expr.parts[2], scope);
  return Value::undefined("the inline if-expression on line " + std::to_string(expr.line) +
                          " evaluated to false and no else section was defined");
}

}  // namespace signalbox::loaders::jinja

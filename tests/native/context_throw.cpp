// context_throw.cpp: C++ exceptions for the fibers of context_probe.c to throw. Tests only.
#include <stdexcept>
#include <string>

namespace {

// A frame with something to destroy: the exception has to stop here on its way.
struct counted {
    int &alive;
    explicit counted(int &counter) : alive(counter) { ++alive; }
    ~counted() { --alive; }
};

__attribute__((noinline)) void descend(int depth, int &alive) {
    counted here(alive);
    if (depth == 0)
        throw std::runtime_error("bottom of " + std::to_string(alive) + " frames");
    descend(depth - 1, alive);
}

}  // namespace

extern "C" __attribute__((visibility("hidden"))) const char *context_throw_and_catch(int depth) {
    int alive = 0;
    try {
        descend(depth, alive);
    } catch (const std::runtime_error &error) {
        if (alive != 0)
            return "caught, but not everything on the way was destroyed";
        if (error.what() != "bottom of " + std::to_string(depth + 1) + " frames")
            return "caught another exception";
        return nullptr;
    }
    return "not thrown";
}

extern "C" __attribute__((visibility("hidden"))) void context_throw() { throw std::runtime_error("nobody catches me"); }

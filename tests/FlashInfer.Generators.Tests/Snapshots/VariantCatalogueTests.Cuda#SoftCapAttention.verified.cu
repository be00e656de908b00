namespace csharp = flashinfer::csharp;

struct Variant : flashinfer::NoVariant {
  struct Arguments {
    float cap;
    float inverse;
  };

  static constexpr bool kTransformsLogits = true;

  static __device__ __forceinline__ float transform(float logit, const flashinfer::LogitsContext& at, const Arguments& a) {
    return a.cap * csharp::tanh(logit * a.inverse);
  }
};

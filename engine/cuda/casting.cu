// Tomograms cross the bus in the dtype that they are stored in. These kernels cast them to float32 on the device.
// casting.ptx is made of this file by NVRTC 12.0, so that every driver of CUDA 12 and later can compile it:
//     nvrtcCompileProgram(program, 2, {"--gpu-architecture=compute_52", "--std=c++03"})

#define CAST(NAME, TYPE, VALUE)                                                                         \
    extern "C" __global__ void cast_##NAME(float *target, const TYPE *source, unsigned long long count) \
    {                                                                                                   \
        const unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;                   \
        unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;               \
        for (; i < count; i += stride)                                                                  \
            target[i] = VALUE(source[i]);                                                               \
    }

// What cuda_fp16.h does, which is not where NVRTC finds it.
__device__ float half_value(unsigned short bits)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

CAST(int8, signed char, (float))
CAST(uint8, unsigned char, (float))
CAST(int16, short, (float))
CAST(uint16, unsigned short, (float))
CAST(float16, unsigned short, half_value)

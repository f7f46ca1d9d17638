package api

// Namespaces that every cluster has.
const (
	NamespaceDefault = "default"
	NamespaceSystem  = "kube-system"
)

// Phases of a pod.
const (
	PodPending   = "Pending"
	PodRunning   = "Running"
	PodSucceeded = "Succeeded"
	PodFailed    = "Failed"
	PodUnknown   = "Unknown"
)

// Phases of a namespace.
const (
	NamespaceActive      = "Active"
	NamespaceTerminating = "Terminating"
)

// Types of conditions. DeploymentReplicaFailure and ReplicaSetReplicaFailure
// are two names of one word, because each kind lists its own.
const (
	PodScheduled     = "PodScheduled"
	PodInitialized   = "Initialized"
	ContainersReady  = "ContainersReady"
	PodReady         = "Ready"
	DisruptionTarget = "DisruptionTarget"

	NodeInternalIP = "InternalIP"

	NodeReady          = "Ready"
	NodeMemoryPressure = "MemoryPressure"
	NodeDiskPressure   = "DiskPressure"
	NodePIDPressure    = "PIDPressure"

	DeploymentAvailable      = "Available"
	DeploymentProgressing    = "Progressing"
	DeploymentReplicaFailure = "ReplicaFailure"
	ReplicaSetReplicaFailure = "ReplicaFailure"
)

// Statuses of a condition.
const (
	ConditionTrue    = "True"
	ConditionFalse   = "False"
	ConditionUnknown = "Unknown"
)

// ReasonUnschedulable is the reason of the condition PodScheduled while no node
// takes the pod.
const ReasonUnschedulable = "Unschedulable"

// Restart policies of a pod.
const (
	RestartPolicyAlways    = "Always"
	RestartPolicyOnFailure = "OnFailure"
	RestartPolicyNever     = "Never"
)

// Pull policies of an image.
const (
	PullAlways       = "Always"
	PullIfNotPresent = "IfNotPresent"
	PullNever        = "Never"
)

// Types of secrets that hold logins to registries, and where.
const (
	SecretDockercfg           = "kubernetes.io/dockercfg"
	SecretDockercfgKey        = ".dockercfg"
	SecretDockerConfigJSON    = "kubernetes.io/dockerconfigjson"
	SecretDockerConfigJSONKey = ".dockerconfigjson"
)

// Protocols of a port.
const (
	ProtocolTCP  = "TCP"
	ProtocolUDP  = "UDP"
	ProtocolSCTP = "SCTP"
)

// Schemes of an HTTP request.
const (
	SchemeHTTP  = "HTTP"
	SchemeHTTPS = "HTTPS"
)

// Strategies of a deployment.
const (
	StrategyRollingUpdate = "RollingUpdate"
	StrategyRecreate      = "Recreate"
)

// Quality-of-service classes of a pod.
const (
	QOSGuaranteed = "Guaranteed"
	QOSBurstable  = "Burstable"
	QOSBestEffort = "BestEffort"
)

// Types of events.
const (
	EventNormal  = "Normal"
	EventWarning = "Warning"
)

// Resources that pods request and nodes offer.
const (
	ResourceCPU              = "cpu"
	ResourceMemory           = "memory"
	ResourceEphemeralStorage = "ephemeral-storage"
	ResourcePods             = "pods"
)

// Labels and annotations that have a meaning for Orch itself.
const (
	LabelPodTemplateHash       = "pod-template-hash"
	LabelHostname              = "kubernetes.io/hostname"
	LabelOS                    = "kubernetes.io/os"
	LabelArch                  = "kubernetes.io/arch"
	LabelNamespaceName         = "kubernetes.io/metadata.name"
	AnnotationRevision         = "deployment.kubernetes.io/revision"
	AnnotationRevisionHistory  = "deployment.kubernetes.io/revision-history"
	AnnotationDesiredReplicas  = "deployment.kubernetes.io/desired-replicas"
	AnnotationMaxReplicas      = "deployment.kubernetes.io/max-replicas"
	AnnotationChangeCause      = "kubernetes.io/change-cause"
	AnnotationLastApplied      = "kubectl.kubernetes.io/last-applied-configuration"
	AnnotationRestartedAt      = "kubectl.kubernetes.io/restartedAt"
	AnnotationPodDeletionCost  = "controller.kubernetes.io/pod-deletion-cost"
	AnnotationDefaultContainer = "kubectl.kubernetes.io/default-container"
)

// Finalizers that Orch itself sets and takes away.
const (
	// FinalizerForeground keeps an owner until its dependents are gone.
	FinalizerForeground = "foregroundDeletion"
	// FinalizerOrphan keeps an owner until its dependents have forgotten it.
	FinalizerOrphan = "orphan"
	// FinalizerHeal keeps an experiment until all that it broke is healed.
	FinalizerHeal = "chaos.orch.dev/heal"
	// FinalizerKubernetes keeps a namespace until its objects are gone.
	FinalizerKubernetes = "kubernetes"
)

// What becomes of the dependents of a deleted object.
const (
	PropagationBackground = "Background"
	PropagationForeground = "Foreground"
	PropagationOrphan     = "Orphan"
)

// DefaultScheduler is the scheduler that places pods which name no other.
const DefaultScheduler = "default-scheduler"

// When a PodDisruptionBudget lets running pods go that are not ready.
const (
	IfHealthyBudget = "IfHealthyBudget"
	AlwaysAllow     = "AlwaysAllow"
)

// What a ChaosExperiment does to its targets. Those above the empty line are done to
// pods, those in the middle to nodes, the last ones to the API server.
const (
	FaultKillContainer  = "KillContainer"
	FaultKillPod        = "KillPod"
	FaultPauseContainer = "PauseContainer"
	FaultStressCPU      = "StressCPU"
	FaultStressMemory   = "StressMemory"
	FaultNetworkLoss    = "NetworkLoss"
	FaultNetworkCut     = "NetworkCut"
	FaultNetworkDelay   = "NetworkDelay"

	FaultCrashAgent = "CrashAgent"
	FaultStopNode   = "StopNode"
	FaultShiftClock = "ShiftClock"

	FaultCrashAPIServer = "CrashAPIServer"
	FaultDropWatches    = "DropWatches"
	FaultDelayWatches   = "DelayWatches"
)

// How many of its possible targets an experiment hits each time.
const (
	ChaosOne          = "One"
	ChaosAll          = "All"
	ChaosFixed        = "Fixed"
	ChaosFixedPercent = "FixedPercent"
)

// Phases of experiments (the first five) and of injections.
const (
	ChaosPending   = "Pending"
	ChaosRunning   = "Running"
	ChaosCompleted = "Completed"
	ChaosStopped   = "Stopped"
	ChaosFailed    = "Failed"
	ChaosInjected  = "Injected"
	ChaosHealed    = "Healed"
)

// Labels and annotations of what may be broken on purpose.
const (
	// LabelChaosProtected: "true" on a pod, node or namespace keeps it from every
	// fault.
	LabelChaosProtected = "chaos.orch.dev/protected"
	// LabelChaosNetem on a node: "true" where its kernel can delay packets.
	LabelChaosNetem = "chaos.orch.dev/netem"
	// AnnotationChaosFaults on a node: the faults that its agent can do, with commas
	// between them.
	AnnotationChaosFaults = "chaos.orch.dev/faults"
	// AnnotationChaosStopped on an experiment says why somebody stopped it.
	AnnotationChaosStopped = "chaos.orch.dev/stopped"
)

// Kinds of subjects of a role binding.
const (
	SubjectUser           = "User"
	SubjectGroup          = "Group"
	SubjectServiceAccount = "ServiceAccount"
)
